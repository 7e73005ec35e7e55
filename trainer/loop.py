"""One epoch of optimizer steps.

Shapes: N images, B batch, C channels, H height, W width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from contracts.errors import SnapensembleError
from trainer.augment import pad_crop_flip
from trainer.schedule import Sgdr, learning_rate
from trainer.seeding import Purpose, generator


class TrainingDiverged(SnapensembleError):
    """The loss is no longer a number; earlier snapshots are whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """The training images on their device, and how batches are drawn from them."""

    images_NCHW: Tensor
    labels_N: Tensor
    batch_size: int
    crop_padding: int
    flip: bool
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches only: the rest of an epoch is left out, another rest each time."""
        return len(self.labels_N) // self.batch_size

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented batches in an order that depends on the seed and the epoch's number only."""
        order_N = torch.randperm(
            len(self.labels_N), generator=generator(self.seed, Purpose.ORDER, epoch)
        ).to(self.labels_N.device)
        augmentation = generator(self.seed, Purpose.AUGMENTATION, epoch)
        for chosen_B in torch.split(order_N, self.batch_size)[: self.steps_per_epoch]:
            images_BCHW = pad_crop_flip(
                self.images_NCHW[chosen_B],
                padding=self.crop_padding,
                flip=self.flip,
                generator=augmentation,
            )
            yield images_BCHW, self.labels_N[chosen_B]


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer update, numbered from 0."""

    step: int
    learning_rate: float
    loss: float


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches, epoch: int, sgdr: Sgdr
) -> Iterator[Step]:
    """Update the weights once per batch, each time at the schedule's rate; yield what happened.

    Raises:
        TrainingDiverged: the loss is infinite or not a number.
    """
    first_step = epoch * batches.steps_per_epoch
    for step, (images_BCHW, labels_B) in enumerate(batches.epoch(epoch), start=first_step):
        rate = learning_rate(step, sgdr)
        # A warm restart raises the learning rate only; weights and momentum carry over.
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = cross_entropy(model(images_BCHW), labels_B)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature has no types
        optimizer.step()
        value = loss.item()
        done = Step(step, rate, value)
        if not isfinite(value):
            raise TrainingDiverged(diverged(f"the loss became {value}", done))
        yield done


def diverged(what: str, step: Step) -> str:
    """The message of TrainingDiverged."""
    return (
        f"{what} at step {step.step} (learning rate {step.learning_rate:.4g}); "
        "train again with a lower --lr-max"
    )
