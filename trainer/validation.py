"""The logits and figures of a network for the validation split, in evaluation mode.

Shapes: N validation images, B batch, C channels, H height, W width, K classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snapensemble.contracts.manifest import ValFigures
from snapensemble.contracts.metrics import softmax, val_figures
from snapensemble.contracts.process import Deferred
from snapensemble.contracts.run import Weights
from snapensemble.trainer.averages import keeps_statistics, measure_batch_norm
from snapensemble.trainer.data.readers import Split
from snapensemble.trainer.loop import Batches, Step, TrainingDiverged, diverged
from snapensemble.trainer.recording.snapshots import Kept
from snapensemble.trainer.seeding import Purpose, derived_seed

PREDICTION_BATCH = 500  # images


class Labelled(NamedTuple):
    """Images, or features of a trunk, on the training device, and their classes."""

    inputs_N: Tensor  # uint8 images, or float32 features; a row per image
    labels_N: NDArray[np.int64]


def sample(split: Split, count: int, seed: int, device: torch.device) -> Labelled:
    """At most `count` images of a split as they are, drawn by the seed."""
    rng = np.random.default_rng(derived_seed(seed, Purpose.TRIAL))
    drawn = split.only(rng.permutation(len(split)) < count)
    return Labelled(torch.from_numpy(drawn.images_NCHW).to(device), drawn.labels_N)


class Validation:
    """The validation split on the training device, shared by the processes of the run.

    Args:
        val: what the network gets of it, and its labels.
        batches: of training images; they say who shares them.
        deferred: signals, which may end a validation between two batches.
    """

    def __init__(self, val: Labelled, batches: Batches, deferred: Deferred) -> None:
        self._batches = batches
        self._world = batches.world
        self._my_inputs_N = val.inputs_N[self._world.share(len(val.labels_N))]
        self._labels_N = val.labels_N
        # Alone, a process may stop between batches; several have different numbers of them.
        self._between = deferred.raise_if_received if self._world.size == 1 else None

    def of(self, network: nn.Module, last: Step) -> tuple[NDArray[np.float32], ValFigures]:
        """logits_NK of the network, and their figures.

        Args:
            network: with the same weights in every process.
            last: the update that made them, for the message.

        Raises:
            TrainingDiverged: a logit is infinite or not a number.
        """
        mine_NK = predict_logits(network, self._my_inputs_N, self._between)
        logits_NK = self._world.gathered(mine_NK)
        if not np.isfinite(logits_NK).all():  # the epoch's last update was too much
            raise TrainingDiverged(diverged("validation gave no numbers", last))
        return logits_NK, val_figures(softmax(logits_NK), self._labels_N)

    def averaged(
        self, weights: Weights, network: nn.Module, last: Step, epoch: int, of_cycles: int = 1
    ) -> Kept:
        """Averaged weights as they are kept, once batch normalisation has its statistics.

        Where training leaves these as they are, they stay.

        Args:
            weights: which average.
            network: gets the statistics of training images of the epoch.
            last: see `of`.
            epoch: whose training images are shown again.
            of_cycles: how many cycles are averaged.
        """
        if not keeps_statistics(network):
            measure_batch_norm(network, self._batches.some(epoch))
            self._world.average_batch_norm(network)
        return Kept.of(weights, network, *self.of(network, last), of_cycles)


@torch.inference_mode()
def predict_logits(
    model: nn.Module, inputs_N: Tensor, between: Callable[[], None] | None = None
) -> NDArray[np.float32]:
    """The model's logits_NK, float32, in evaluation mode; its modes are put back afterwards.

    Args:
        model: images or features in, logits out.
        inputs_N: on the model's device.
        between: called after each batch; may raise to end it early.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    parts = []
    try:
        for batch in torch.split(inputs_N, PREDICTION_BATCH):
            parts.append(model(batch).float())
            if between is not None:
                between()
    finally:
        for module, was_training in modes:
            module.training = was_training
    logits_NK: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
    return logits_NK
