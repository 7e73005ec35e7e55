"""run.json, which the trainer writes and the export reads, and the arrays beside it.

Shapes: S snapshots, N validation images, K classes.
"""

import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from snapensemble.contracts.errors import InvalidManifest
from snapensemble.contracts.files import read_verified
from snapensemble.contracts.manifest import (
    ClassNames,
    FileRef,
    FileSize,
    Fraction,
    NonNegative,
    Record,
    RelativeFile,
    Sha256,
    ValFigures,
    read_manifest,
    write_manifest,
)
from snapensemble.contracts.pixels import ImageContract

RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"  # beside the manifest; a line per step and per epoch
MAX_DIMENSIONS = 8  # of an array
# Of a cycle that is worth a restart: docs/decisions/0032 has the measurement.
MIN_UPDATES, MIN_EPOCHS = 900, 35
FEW_CYCLES = 8  # whose lengths a line can list
_MAGIC = b"\x93NUMPY\x01\x00"
# As NumPy has always written it; a size has so few digits that no number takes long to read.
_HEADER = re.compile(
    rb"\{'descr': '([<|][a-z][0-9]{1,2})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:[0-9]{1,18}, ?)*(?:[0-9]{1,18})?)\), \} *\n"
)

Number = TypeVar("Number", bound=np.generic)
MAX_COUNT = 2**53  # above it, a number of a JSON file is not exact everywhere
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Positive = Annotated[int, Field(ge=1, le=MAX_COUNT)]
ScheduleName = Literal["sgdr", "cosine", "step", "plateau", "constant", "hypergradient"]
# Whether restarts are worth it, which a moment in the first cycle decides where nobody asked for
# cycles: they are where the network has fitted its images by then; else there is one cycle.
Trial = Literal["open", "fitted", "not fitted"]
# Whose last weights a cycle begins with: those of the cycle before, or of the first one (a star).
RestartFrom = Literal["previous", "first"]
# The weights of a snapshot: as the last update left them, or an average, see trainer.averages.
Weights = Literal["last", "ema", "tail", "soup"]
# An image of a class with n training images counts n to the power of minus this.
Balance = Literal["none", "sqrt", "inverse"]
BALANCE_POWERS: dict[Balance, float] = {"none": 0.0, "sqrt": 0.5, "inverse": 1.0}


class DataRecord(Record):
    """Where the images came from and how they were split."""

    spec: str
    fingerprint: Sha256  # over the training and validation pixels and labels
    split_seed: Count
    val_fraction: NonNegative
    max_bad_images: Count = 0  # unreadable files of a folder that may be left out
    max_image_cost: Annotated[float, Field(ge=1)] = 6.25  # in times what a server accepts
    train_images: Positive
    class_counts: tuple[Positive, ...] = ()  # of the training images; earlier: not kept
    val_images: Positive
    test_images: Count


class ScheduleRecord(Record):
    """The schedule as it was run; lengths in optimizer steps.

    With schedules that know no cycles, these are the equal intervals between snapshots.
    """

    name: ScheduleName = "sgdr"
    T_0: Positive  # the first cycle's length
    T_1: Positive | None = None  # the second one's, where the first has a length of its own
    T_mult: Annotated[float, Field(ge=1)]  # the growth after that; lengths are whole epochs
    eta_max: NonNegative  # the highest rate: sgdr, cosine; the first: step, plateau, constant
    eta_min: NonNegative
    warmup: Count = 0
    eta_max_decay: Fraction = 1.0  # per restart
    restart_from: RestartFrom = "previous"  # whose weights a later cycle begins with
    milestones: tuple[Count, ...] = ()  # step
    factor: Fraction | None = None  # step, plateau
    patience: Count | None = None  # plateau, epochs
    eta_start: NonNegative | None = None  # hypergradient
    beta: NonNegative | None = None  # hypergradient
    rule: Literal["additive", "multiplicative"] | None = None  # hypergradient
    cycles: Positive
    steps_per_epoch: Positive
    total_steps: Positive
    cycle_ends: tuple[Positive, ...] = ()  # updates done at the end of each; earlier: not kept
    trial: Trial | None = None  # None: the cycles were asked for, or the budget is too short
    falls_over: Positive | None = None  # steps of the first fall, which a restart has cut short

    @model_validator(mode="after")
    def _ends_rise_to_the_total(self) -> "ScheduleRecord":
        ends = self.cycle_ends
        if ends and (
            len(ends) != self.cycles
            or ends[-1] != self.total_steps
            or any(before >= after for before, after in pairwise(ends))
        ):
            raise ValueError("cycle_ends must rise, one for each cycle, to total_steps")
        return self

    def pays(self, cycle: int, weights: Weights) -> bool:
        """Whether a cycle was long enough for a snapshot of it to be averaged with others.

        Schedules without restarts have no such cycles, and earlier versions kept no ends of cycles.
        """
        if self.name != "sgdr" or not self.cycle_ends:
            return False
        if self.falls_over is not None and cycle == 0:
            return weights == "ema"  # stands for the weights at a rate that has fallen
        if self.restart_from == "first":  # no cycle has to make good what a restart has cost
            return True
        start, end = [0, *self.cycle_ends][cycle : cycle + 2]
        return is_long_enough(end - start, self.steps_per_epoch)

    def epochs_of(self, cycle: int) -> int:
        """The epochs of a cycle; those of an equal share where its end was not kept."""
        if not self.cycle_ends:
            return self.total_steps // self.steps_per_epoch // self.cycles
        start, end = [0, *self.cycle_ends][cycle : cycle + 2]
        return (end - start) // self.steps_per_epoch

    def shortened(self, cycles: int) -> "ScheduleRecord":
        """The same schedule with its first `cycles` cycles only."""
        ends = self.cycle_ends[:cycles]
        update = {"cycles": cycles, "cycle_ends": ends, "total_steps": ends[-1]}
        return self.model_copy(update=update)

    def in_words(self, word: str = "cycle") -> str:
        """How many cycles, and of how many epochs: `3 cycles of 10, 15 and 23 epochs`."""
        edges = [0, *self.cycle_ends]
        epochs = [(end - start) // self.steps_per_epoch for start, end in pairwise(edges)]
        counted = _counted(self.cycles, word)
        if not epochs:
            return counted
        if min(epochs) == max(epochs):
            return f"{counted} of {_counted(epochs[0], 'epoch')}"
        if len(epochs) > FEW_CYCLES:
            return f"{counted} of {min(epochs)} to {max(epochs)} epochs"
        return f"{counted} of {', '.join(map(str, epochs[:-1]))} and {epochs[-1]} epochs"


class TrainingRecord(Record):
    """The settings that decide the weights, beside the data and the schedule."""

    model: str
    parameters: Positive
    batch_size: Positive
    momentum: NonNegative
    nesterov: bool
    weight_decay: NonNegative
    crop_padding: Count  # pixels
    flip: bool
    cutout: Count = 0  # pixels
    random_resized_crop: Fraction | None = None  # smallest share of the area
    trivial_augment: bool = False
    color_jitter: Fraction = 0.0  # to either side of 1
    random_erasing: Fraction = 0.0  # share of the images
    mixup: NonNegative = 0.0  # alpha
    cutmix: NonNegative = 0.0  # alpha
    label_smoothing: Fraction = 0.0
    class_balance: Balance = "none"
    pretrained: bool = False
    frozen_statistics: bool = False  # of batch normalisation
    clip_norm: NonNegative | None = None  # of the gradient
    tune: str = "all"  # the first stage that is trained, `head`, or all
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the rate, per stage downwards
    precision: str = "fp32"
    compiled: bool = False
    processes: Positive = 1
    seed: Count
    device: str
    torch: str


class Snapshot(Record):
    """Weights at the end of one cycle, and how they did on the validation split."""

    cycle: Count
    weights: Weights = "last"
    of_cycles: Positive = 1  # how many cycles, up to this one, a soup averages
    step: Positive  # optimizer updates done
    learning_rate: NonNegative  # of the last update; with sgdr the lowest of the cycle
    file: RelativeFile
    sha256: Sha256
    size: FileSize = None  # bytes
    val: ValFigures
    val_logits: FileRef  # float32 [val images, classes], .npy

    @property
    def name(self) -> str:
        """What its files are called, and the member that it may become."""
        return snapshot_name(self.cycle, self.weights, self.of_cycles)


class Branch(Record):
    """A run that trains one cycle of another run's star, perhaps on another machine."""

    cycle: Positive  # of the star, from 0
    first: FileRef  # the weights that all later cycles of the star begin with, safetensors


class RunManifest(Record):
    """A training run: complete snapshots only, in the order of their cycles."""

    format: Literal["snapshot-run"] = "snapshot-run"
    format_version: Literal[1] = 1
    snapensemble: str
    classes: ClassNames
    image: ImageContract
    data: DataRecord
    schedule: ScheduleRecord
    training: TrainingRecord
    val_labels: FileRef  # int64 [val images], .npy
    config: FileRef | None = None  # the settings as they were given, TOML; --resume reads it
    calibration_images: FileRef  # uint8 [up to 256, C, H, W] from the training split, .npy
    branch: Branch | None = None  # None: it trains all cycles
    trunk: FileRef | None = None  # safetensors: what is not trained; snapshots hold the rest
    snapshots: tuple[Snapshot, ...] = ()  # the last weights of each cycle
    averages: tuple[Snapshot, ...] = ()  # of the weights along cycles, and over cycles
    extended_after: tuple[Positive, ...] = ()  # cycles done when a finished run got more of them

    @model_validator(mode="after")
    def _cycles_are_counted(self) -> "RunManifest":
        found = [s.cycle for s in self.snapshots]
        if found != (expected := list(self.cycles[: len(found)])):
            raise ValueError(
                f"snapshots must be listed by cycle, without a gap: found {found}, expected "
                f"{expected}"
            )
        if any(s.weights != "last" for s in self.snapshots):
            raise ValueError("snapshots are last weights; the others are listed as averages")
        return self

    @model_validator(mode="after")
    def _averages_follow_their_snapshot(self) -> "RunManifest":
        kept = {snapshot.cycle for snapshot in self.snapshots}
        if any(s.weights == "last" or s.cycle not in kept for s in self.averages):
            raise ValueError("averages must be of weights along the cycles that have a snapshot")
        return self

    @property
    def all_snapshots(self) -> tuple[Snapshot, ...]:
        """The last weights of each cycle, then the averages."""
        return (*self.snapshots, *self.averages)

    @model_validator(mode="after")
    def _extended_after_snapshots(self) -> "RunManifest":
        done = {snapshot.cycle + 1 for snapshot in self.snapshots}
        if not done.issuperset(self.extended_after):
            raise ValueError("extended_after must count cycles that have their snapshot")
        return self

    @property
    def class_prior(self) -> tuple[float, ...] | None:
        """The class shares for which the networks answer; None: the run has kept no counts.

        They are those of the training images, each counting as `--class-balance` had it.
        """
        power = 1 - BALANCE_POWERS[self.training.class_balance]
        weights = [count**power for count in self.data.class_counts]
        return tuple(weight / sum(weights) for weight in weights) or None

    @property
    def complete(self) -> bool:
        """Whether every cycle that the run trains has its snapshot."""
        return len(self.snapshots) == len(self.cycles)

    @property
    def cycles(self) -> range:
        """The cycles that the run trains: all of its schedule, or the one of a branch."""
        if self.branch is None:
            return range(self.schedule.cycles)
        return range(self.branch.cycle, self.branch.cycle + 1)

    @property
    def last_step(self) -> int:
        """The updates done when the last of these cycles ends."""
        ends = self.schedule.cycle_ends  # which earlier versions did not keep
        return ends[self.cycles[-1]] if ends else self.schedule.total_steps


def is_long_enough(updates: int, steps_per_epoch: int) -> bool:
    """Whether a cycle of so many updates has trained the network again, so that a restart pays."""
    return updates >= max(MIN_UPDATES, MIN_EPOCHS * steps_per_epoch)


def snapshot_name(cycle: int, weights: Weights, of_cycles: int) -> str:
    """A name of its own for each snapshot of a run: cycle-03, cycle-03-ema, cycle-03-soup-2."""
    kind = {"last": "", "soup": f"-soup-{of_cycles}"}.get(weights, f"-{weights}")
    return f"cycle-{cycle:02d}{kind}"


def read_run(run_dir: Path) -> RunManifest:
    """Read the manifest of a run directory and check it.

    Raises:
        InvalidManifest: there is no manifest, or it is not right.
    """
    return read_manifest(run_dir / RUN_FILE, RunManifest, made_by="snapensemble train")


def write_run(run_dir: Path, manifest: RunManifest) -> None:
    """Write `run_dir/run.json` atomically."""
    write_manifest(run_dir / RUN_FILE, manifest)


def read_validation(
    run_dir: Path, run: RunManifest
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """logits_SNK and labels_N of the validation split: whole files of numbers that can be used.

    The snapshots are in the order of `RunManifest.all_snapshots`.
    """
    labels_N, K = read_array(run_dir, run.val_labels, np.int64), len(run.classes)
    if labels_N.ndim != 1 or not labels_N.size or labels_N.min() < 0 or labels_N.max() >= K:
        file = run_dir / run.val_labels.file
        raise InvalidManifest(f"{file}: expected a list of class indices below {K}")
    expected = (len(labels_N), K)
    logits_SNK = np.empty((len(run.all_snapshots), *expected), dtype=np.float32)
    for row, snapshot in enumerate(run.all_snapshots):
        logits_NK = read_array(run_dir, snapshot.val_logits, np.float32)
        if logits_NK.shape != expected:
            raise InvalidManifest(
                f"{run_dir / snapshot.val_logits.file}: shape {logits_NK.shape}, "
                f"expected {expected}"
            )
        if not np.isfinite(logits_NK).all():
            raise InvalidManifest(f"{run_dir / snapshot.val_logits.file}: values are no numbers")
        logits_SNK[row] = logits_NK
    return logits_SNK, labels_N


def read_array(run_dir: Path, reference: FileRef, dtype: type[Number]) -> NDArray[Number]:
    """Read an .npy file of the run; its hash, its type and its size are checked.

    NumPy's own reader evaluates the header as Python and takes the memory that it asks for; here
    nothing is taken but what is there.
    """
    data = read_verified(run_dir, reference.file, reference.sha256, reference.size)
    try:
        return parse_array(data, dtype)
    except ValueError as error:
        raise InvalidManifest(f"{run_dir / reference.file}: {error}") from error


def parse_array(data: bytes, dtype: type[Number]) -> NDArray[Number]:
    """The array in the bytes of an .npy file, as `numpy.save` writes it.

    Raises:
        ValueError: they are no such file, hold another type, or are not as many as its shape says.
    """
    if not data.startswith(_MAGIC):
        raise ValueError("not an .npy file of version 1.0")
    start = len(_MAGIC) + 2
    end = start + int.from_bytes(data[len(_MAGIC) : start], "little")
    header = _HEADER.fullmatch(data[start:end])
    if header is None:
        raise ValueError(f"not an .npy file: its header begins with {data[start:end][:60]!r}")
    found, columns_first, dimensions = (part.decode() for part in header.groups())
    expected = np.dtype(dtype)
    if found != expected.str:
        raise ValueError(f"holds {_name(found)}, expected {expected}")
    shape = tuple(int(size) for size in dimensions.replace(",", " ").split())
    if len(shape) > MAX_DIMENSIONS or math.prod(shape) * expected.itemsize != len(data) - end:
        raise ValueError(f"its header says shape {shape}, and {len(data) - end:,} bytes follow")
    order: Literal["F", "C"] = "F" if columns_first == "True" else "C"
    return np.frombuffer(data, expected, offset=end).reshape(shape, order=order).copy()


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _name(description: str) -> str:
    try:
        return str(np.dtype(description))
    except TypeError:
        return description
