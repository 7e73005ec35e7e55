import copy

import pytest
import torch
from torch import Tensor, nn

from snapensemble.contracts.pixels import ImageContract
from snapensemble.trainer.augmentation.batch import Augmentation
from snapensemble.trainer.data.dataset import load_dataset
from snapensemble.trainer.fine_tuning.inputs import Inputs, fit_first_head
from snapensemble.trainer.loop import Augmented
from snapensemble.trainer.models.registry import WrappedClassifier
from snapensemble.trainer.validation import Labelled


class TwoHeads(nn.Module):
    """A network like timm's distilled ones, whose answer is the mean of two last layers."""

    def __init__(self) -> None:
        super().__init__()
        self.default_cfg = {"classifier": ("head", "head_dist")}
        self.head, self.head_dist = nn.Linear(64, 10), nn.Linear(64, 10)

    def reset_classifier(self, classes: int) -> None:
        self.head, self.head_dist = nn.Linear(64, classes), nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        rows_BC = images.flatten(1)
        both: Tensor = (self.head(rows_BC) + self.head_dist(rows_BC)) / 2
        return both


def test_a_network_that_ends_with_no_single_linear_layer_is_trained_with_random_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    dataset = load_dataset("digits", val_fraction=0.1, split_seed=0)
    image = ImageContract(channels=1, height=8, width=8, mean=(0.5,), std=(0.3,))
    network = WrappedClassifier(TwoHeads(), image)
    before = copy.deepcopy(network.state_dict())
    images_NCHW = torch.from_numpy(dataset.train.images_NCHW)
    shown = Augmented(
        images_NCHW=images_NCHW, augmentation=Augmentation(), fill_C=torch.zeros(1).byte()
    )
    val = Labelled(torch.from_numpy(dataset.val.images_NCHW), dataset.val.labels_N)
    fit_first_head(network, Inputs(network, None, shown, val), dataset)
    assert "begin with random weights" in capsys.readouterr().err
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.training
