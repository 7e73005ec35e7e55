"""TrainConfig: every choice that a training run depends on, checked where it is built."""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Literal

from contracts.errors import InvalidConfig
from contracts.pixels import MAX_SIDE
from trainer.schedule import Sgdr, cycles_in

MAX_SEED = 2**32
MAX_CYCLES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """What `train` needs to know.

    `cycle_epochs` is the first cycle's length; each later one is `t_mult` times longer. `flip`
    None means: where the data set says that a mirror image keeps its class. `crop_padding` None
    means an eighth of the image's height, and none for images below 16 pixels. `batch_size` None
    means 128, or less where an epoch would have fewer than 20 steps.
    """

    data: str
    out: Path
    schedule: Literal["sgdr"] = "sgdr"
    model: str | None = None
    cycles: int | None = None
    epochs: int | None = None
    cycle_epochs: int = 10
    t_mult: int = 1
    lr_max: float = 0.1
    lr_min: float = 0.0
    batch_size: int | None = None
    momentum: float = 0.9
    weight_decay: float = 5e-4
    image_size: int | None = None
    crop_padding: int | None = None
    flip: bool | None = None
    val_fraction: float = 0.1
    split_seed: int = 0
    seed: int = 0
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        _at_least(1, cycle_epochs=self.cycle_epochs, t_mult=self.t_mult, batch_size=self.batch_size)
        _at_least(0, split_seed=self.split_seed, seed=self.seed, crop_padding=self.crop_padding)
        _at_least(1, image_size=self.image_size, threads=self.threads, cycles=self.cycles)
        _at_most(MAX_SIDE, image_size=self.image_size)
        _at_most(MAX_CYCLES, cycles=self.cycles, epochs=self.epochs, t_mult=self.t_mult)
        if self.batch_size == 1:
            raise InvalidConfig("batch_size must be at least 2: batch normalisation needs two")
        if self.schedule != "sgdr":
            raise InvalidConfig(f"schedule must be sgdr, got {self.schedule!r}")
        if max(self.seed, self.split_seed) >= MAX_SEED:
            raise InvalidConfig(f"seeds must be below {MAX_SEED}")
        if not 0 < self.val_fraction < 1:
            raise InvalidConfig(f"val_fraction must be between 0 and 1, got {self.val_fraction}")
        if not 0 <= self.momentum < 1:
            raise InvalidConfig(f"momentum must be in [0, 1), got {self.momentum}")
        if not (isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise InvalidConfig(f"weight_decay must not be negative, got {self.weight_decay}")
        if self.cycles is not None and self.epochs is not None:
            raise InvalidConfig("give either cycles or epochs, not both")
        self.sgdr(steps_per_epoch=1)  # checks the learning rates
        _ = self.cycle_count  # checks the budget

    @property
    def cycle_count(self) -> int:
        """How many cycles to train: `cycles`, or the number that `epochs` makes; 5 by default."""
        if self.epochs is not None:
            return cycles_in(self.epochs, self.cycle_epochs, self.t_mult)
        return 5 if self.cycles is None else self.cycles

    def sgdr(self, steps_per_epoch: int) -> Sgdr:
        """The schedule in optimizer steps."""
        return Sgdr(
            T_0=self.cycle_epochs * steps_per_epoch,
            T_mult=self.t_mult,
            eta_max=self.lr_max,
            eta_min=self.lr_min,
        )


def _at_least(bound: int, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < bound:
            raise InvalidConfig(f"{name} must be at least {bound}, got {value}")


def _at_most(bound: int, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value > bound:
            raise InvalidConfig(f"{name} must be at most {bound}, got {value}")
