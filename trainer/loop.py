"""One epoch of optimizer steps.

Shapes: N images, B batch, R rows of a batch, C channels, H height, W width, K classes.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from snapensemble.contracts.errors import SnapensembleError
from snapensemble.trainer.augmentation.batch import (
    Augmentation,
    Draws,
    augment,
    draw_augmentation,
)
from snapensemble.trainer.augmentation.mixing import Mixing, Pairs, draw_mixing, mixed, partners
from snapensemble.trainer.device.transfers import Reading, sent
from snapensemble.trainer.distributed import World
from snapensemble.trainer.recording.checkpoint import State
from snapensemble.trainer.schedule import Cycle
from snapensemble.trainer.schedules import Schedule
from snapensemble.trainer.seeding import Purpose, derived_seed, generator

STATISTICS_IMAGES = 5_000


class TrainingDiverged(SnapensembleError):
    """The loss is no longer a number; earlier snapshots are whole."""


class Source(Protocol):
    """What a batch shows of the training images."""

    @property
    def augmentation(self) -> Augmentation:
        """How an image is changed before the network sees it."""

    def draw(self, batch: int, numbers: torch.Generator) -> Any:
        """Draw all random numbers of a batch, before it is known whether it is trained on."""

    def take(
        self, chosen_R: Tensor, draws: Any, rows: slice | Tensor, device: torch.device
    ) -> Tensor:
        """What the network on the device gets of some images, which are these rows of the batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmented:
    """The images themselves, changed anew each time."""

    images_NCHW: Tensor  # uint8, on their device
    augmentation: Augmentation
    fill_C: Tensor  # uint8, the colour of what cutout removes

    def draw(self, batch: int, numbers: torch.Generator) -> Draws:
        """The numbers of each image's augmentation."""
        return draw_augmentation(batch, self.augmentation, numbers)

    def take(
        self, chosen_R: Tensor, draws: Draws, rows: slice | Tensor, device: torch.device
    ) -> Tensor:
        """images_RCHW, uint8."""
        return augment(self.images_NCHW[sent(chosen_R, device)], draws.rows(rows), self.fill_C)


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """What a trunk that is not trained has made of a few augmented views of each image."""

    features_VN: Tensor  # float16, on the CPU; further dimensions are those of a view's features
    augmentation: Augmentation  # that made the views

    def draw(self, batch: int, numbers: torch.Generator) -> Tensor:
        """view_B, which view of each image is shown."""
        return torch.randint(len(self.features_VN), (batch,), generator=numbers)

    def take(
        self, chosen_R: Tensor, draws: Tensor, rows: slice | Tensor, device: torch.device
    ) -> Tensor:
        """features, float32, a row per image."""
        features = sent(self.features_VN[draws[rows], chosen_R], device).float()
        if features.ndim == 4:  # maps: convolutions are faster so
            features = features.contiguous(memory_format=torch.channels_last)
        return features


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """The training images, and how batches are drawn from them."""

    source: Source
    labels_N: Tensor  # on the CPU
    batch_size: int  # over all processes
    seed: int
    world: World
    device: torch.device = torch.device("cpu")  # noqa: RUF009  # it is never changed
    mixing: Mixing | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of an epoch; the images left over are others in each epoch."""
        return len(self.labels_N) // self.batch_size

    def forward_seed(self, step: int) -> int:
        """A seed for networks that draw while they train (dropout), for each step and process."""
        count = step * self.world.size + self.world.rank
        return derived_seed(self.seed, Purpose.FORWARD, count)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor | Pairs]]:
        """Yield augmented batches in an order that depends on the seed and the epoch's number only.

        Args:
            epoch: counted from 0.
            first: how many batches are left out, since they were trained on before.
        """
        order_N = torch.randperm(
            len(self.labels_N), generator=generator(self.seed, Purpose.ORDER, epoch)
        )
        numbers = generator(self.seed, Purpose.AUGMENTATION, epoch)
        mine = self.world.share(self.batch_size)
        for index in range(self.steps_per_epoch):
            # Drawn for batches that are left out too: the generator moves on as it did then.
            draws = self.source.draw(self.batch_size, numbers)
            mixing = (
                None if self.mixing is None else draw_mixing(self.batch_size, self.mixing, numbers)
            )
            if index < first:
                continue
            chosen_B = order_N[index * self.batch_size :][: self.batch_size]
            rows: slice | Tensor = partners(mine, self.batch_size) if mixing else mine
            inputs_R = self.source.take(chosen_B[rows], draws, rows, self.device)
            labels_R = sent(self.labels_N[chosen_B[rows]], self.device)
            yield mixed(inputs_R, labels_R, mixing.rows(mine)) if mixing else (inputs_R, labels_R)

    def some(self, epoch: int) -> Iterator[Tensor]:
        """The images of an epoch's first batches, about 5,000 in all: enough for statistics."""
        first = islice(self.epoch(epoch), self.batches_for_statistics)
        return (images_BCHW for images_BCHW, _ in first)

    @property
    def batches_for_statistics(self) -> int:
        """How many batches `some` has."""
        return min(self.steps_per_epoch, -(-STATISTICS_IMAGES // self.batch_size))


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer update, numbered from 0."""

    step: int
    learning_rate: float
    loss: float  # mean over the global batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The loss that is minimised: the cross entropy of the network's logits for a batch."""

    network: nn.Module  # the model as it is trained: compiled, or in several processes
    label_smoothing: float
    autocast: bool  # bfloat16 where torch holds it safe
    longest_gradient: float | None = None  # norm; a longer one is scaled down
    class_weights_K: Tensor | None = None  # with a mean of 1 over the training images

    def __call__(self, images_BCHW: Tensor, labels: Tensor | Pairs) -> Tensor:
        """The mean loss of the batch."""
        context: AbstractContextManager[object] = (
            torch.autocast(images_BCHW.device.type, torch.bfloat16)
            if self.autocast
            else nullcontext()
        )
        with context:
            logits_BK = self.network(images_BCHW)
        return self.loss(logits_BK.float(), labels)

    def loss(self, logits_BK: Tensor, labels: Tensor | Pairs) -> Tensor:
        """The mean over the batch; of a pair, each of the two counts by its share.

        Weights are not divided by their sum in the batch: so the mean of equal parts, one of each
        process, is the mean of the whole.
        """
        if isinstance(labels, Pairs):
            share_B = labels.share_B
            first_B = self._losses(logits_BK, labels.first_B)
            return (
                share_B * first_B + (1 - share_B) * self._losses(logits_BK, labels.second_B)
            ).mean()
        if self.class_weights_K is not None:
            return self._losses(logits_BK, labels).mean()
        return cross_entropy(logits_BK, labels, label_smoothing=self.label_smoothing)

    def _losses(self, logits_BK: Tensor, labels_B: Tensor) -> Tensor:
        smoothing, weights_K = self.label_smoothing, self.class_weights_K
        losses_B = cross_entropy(logits_BK, labels_B, label_smoothing=smoothing, reduction="none")
        return losses_B if weights_K is None else losses_B * weights_K[labels_B]


def train_epoch(
    state: State,
    objective: Objective,
    batches: Batches,
    schedule: Schedule,
    cycle: Cycle,
    reading: Reading,
) -> Iterator[tuple[Step, ...]]:
    """Train to the end of the state's epoch; yield the updates whose losses were read together.

    Between two readings nothing waits for the device, unless the schedule is `hypergradient`, whose
    rate is computed from the gradients.

    Args:
        state: moves on with each update.
        objective: gives the loss.
        batches: of training images.
        schedule: gives the rate.
        cycle: the one that the epoch belongs to, over which weights are averaged.
        reading: says after how many updates their losses are read.

    Raises:
        TrainingDiverged: the loss is infinite or not a number.
    """
    optimizer, epoch = state.optimizer, state.epoch
    first, end = state.step - epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch
    rates: list[float] = []
    losses: list[Tensor] = []
    for images_BCHW, labels in batches.epoch(epoch, first):
        rate = schedule.rate(state.step, state.val_nlls)
        if rate is not None:
            # A warm restart raises the learning rate only; weights and momentum carry over.
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("share", 1.0)
        torch.manual_seed(batches.forward_seed(state.step))
        loss = objective(images_BCHW, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature has no types
        if objective.longest_gradient is not None:
            clip_grad_norm_(state.model.parameters(), objective.longest_gradient)
        optimizer.step()
        state.averages.update(state.model, state.step - cycle.start + 1, cycle.length)
        rates.append(state.rate)
        losses.append(batches.world.mean(loss.detach()))
        state.step += 1
        if len(losses) >= reading.steps or state.step == end:
            done = read(state.step, rates, losses)
            state.loss = done[-1].loss
            rates, losses = [], []
            reading.choose(batches.world)
            yield done


def read(end: int, rates: list[float], losses: list[Tensor]) -> tuple[Step, ...]:
    """The latest updates, once the device has computed their losses.

    Args:
        end: how many updates were done.
        rates: of the latest of them.
        losses: of the same, on the device.

    Raises:
        TrainingDiverged: a loss is infinite or not a number.
    """
    values = torch.stack(losses).tolist()
    steps = tuple(map(Step, range(end - len(values), end), rates, values))
    for step in steps:
        if not isfinite(step.loss):
            raise TrainingDiverged(diverged(f"the loss became {step.loss}", step))
    return steps


def diverged(what: str, step: Step) -> str:
    """The message of TrainingDiverged."""
    return (
        f"{what} at step {step.step} (learning rate {step.learning_rate:.4g}); "
        "train again with a lower --lr-max"
    )
