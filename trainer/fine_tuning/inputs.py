"""What is trained and what it is shown: a network and images, or a member and a trunk's features.

Shapes: V views, N images, C features before the last layer.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.process import say
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.data.dataset import Dataset
from snapensemble.trainer.fine_tuning.features import BATCH, features, views
from snapensemble.trainer.fine_tuning.head import fit_head
from snapensemble.trainer.loop import Augmented, Source, Views
from snapensemble.trainer.models.registry import Classifier
from snapensemble.trainer.models.tuning import ALL, HEAD, Member, divided
from snapensemble.trainer.validation import Labelled


class Inputs(NamedTuple):
    """What is trained, what is not, and what the former gets."""

    model: nn.Module
    trunk: nn.Module | None  # None: all is trained
    source: Source
    val: Labelled


def training_inputs(
    config: TrainConfig, network: Classifier, images: Augmented, dataset: Dataset
) -> Inputs:
    """The network and the images, or its tuned part and the features that the rest makes of them.

    Args:
        config: says what is tuned, and how many views of each image the trunk sees.
        network: on the images' device.
        images: augmented for training.
        dataset: its validation split is shown as it is.

    Raises:
        InvalidConfig: the network cannot be tuned from there.
    """
    val_NCHW = torch.from_numpy(dataset.val.images_NCHW).to(images.images_NCHW.device)
    if config.tune in (None, ALL):
        return Inputs(network, None, images, Labelled(val_NCHW, dataset.val.labels_N))
    trunk, member = divided(network, config.tune)
    source = views(trunk, images, config.views, config.seed)
    val = Labelled(features(trunk, val_NCHW), dataset.val.labels_N)
    return Inputs(member.train(), trunk, source, val)


def fit_first_head(
    network: Classifier, inputs: Inputs, dataset: Dataset, class_weights_K: Tensor | None = None
) -> None:
    """Begin with the best last layer for the features as they are, see `fit_head`.

    Where all of a network is trained that does not end with one linear layer, as some of timm do
    not, its last layers keep their random weights.

    Args:
        network: freshly made, with pretrained weights; its last layer changes.
        inputs: of the same network.
        dataset: the training split's images, where there are no views, and its labels.
        class_weights_K: see `fit_head`.
    """
    device = next(network.parameters()).device
    labels_N = torch.from_numpy(dataset.train.labels_N).to(device)
    if isinstance(inputs.source, Views) and isinstance(inputs.model, Member):
        member = inputs.model
        rows_NC = _before_the_last(member, inputs.source.features_VN, device)
        labels_N = labels_N.repeat(len(inputs.source.features_VN))
    else:
        try:
            trunk, member = divided(network, HEAD)
        except InvalidConfig:
            say("the last layers begin with random weights: there is no linear one to be fitted")
            return
        rows_NC = features(trunk, torch.from_numpy(dataset.train.images_NCHW).to(device))
    fit_head(member.last, rows_NC, labels_N, class_weights_K)
    network.train()
    if inputs.trunk is not None:
        inputs.trunk.eval()


@torch.inference_mode()
def _before_the_last(member: Member, features_VN: Tensor, device: torch.device) -> Tensor:
    """What the member's last layer gets, for all views of all images: V N rows."""
    member.eval()
    return torch.cat(
        [
            member.before_last(rows.to(device).float())
            for view in features_VN
            for rows in torch.split(view, BATCH)
        ]
    ).clone()
