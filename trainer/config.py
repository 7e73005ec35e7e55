"""TrainConfig: every choice that a training run depends on, checked where it is built."""

from dataclasses import dataclass, fields
from math import inf, isfinite
from pathlib import Path
from typing import Literal, get_args

from contracts.errors import InvalidConfig
from contracts.pixels import MAX_SIDE
from contracts.run import ScheduleName
from trainer.decoding import MAX_IMAGE_COST
from trainer.schedule import Sgdr, cycles_in, first_cycles
from trainer.schedules import Constant, Hypergradient, HyperRule, Plan, Plateau, Schedule, StepDecay

Precision = Literal["fp32", "bf16"]
MAX_SEED = 2**32
MAX_CYCLES = 10_000
MAX_THREADS = 1024
LR_MAX, FINE_TUNING_LR_MAX = 0.1, 0.01
HUB = "hub"  # `pretrained`: the published weights, not a file
SCHEDULES: tuple[ScheduleName, ...] = get_args(ScheduleName)
# Which schedules a setting belongs to; with any other it is refused.
BELONGS = {
    "t_mult": {"sgdr"},
    "lr_max_decay": {"sgdr"},
    "warmup_epochs": {"sgdr", "cosine"},
    "lr_min": {"sgdr", "cosine", "plateau"},
    "lr_factor": {"step", "plateau"},
    "lr_steps": {"step"},
    "patience": {"plateau"},
    "lr_start": {"hypergradient"},
    "hyper_lr": {"hypergradient"},
    "hyper_rule": {"hypergradient"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """What `train` needs to know.

    `cycle_epochs` is the first cycle's length; each later one is `t_mult` times longer. Schedules
    other than SGDR use the same budget and take as many snapshots, equally spaced. None means:
    `batch_size` 128, or less where an epoch would have fewer than 20 steps; `lr_max` 0.1, or 0.01
    with pretrained weights; `flip` where the data set says that a mirror image keeps its class;
    `crop_padding` an eighth of the image's height, and none for images below 16 pixels;
    `hyper_lr` 0.001 for the additive rule, 0.02 for the multiplicative one.
    """

    data: str
    out: Path
    schedule: ScheduleName = "sgdr"
    model: str | None = None
    pretrained: str | None = None
    cycles: int | None = None
    epochs: int | None = None
    cycle_epochs: int = 10
    t_mult: int = 1
    lr_max: float | None = None
    lr_min: float = 0.0
    lr_max_decay: float = 1.0
    warmup_epochs: int = 0
    lr_steps: tuple[float, ...] = (0.5, 0.75)
    lr_factor: float = 0.1
    patience: int = 5
    lr_start: float = 0.001
    hyper_lr: float | None = None
    hyper_rule: HyperRule = "additive"
    batch_size: int | None = None
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    image_size: int | None = None
    crop_padding: int | None = None
    flip: bool | None = None
    cutout: int = 0
    random_resized_crop: float | None = None
    max_bad_images: int = 0
    max_image_cost: float = MAX_IMAGE_COST
    val_fraction: float = 0.1
    split_seed: int = 0
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    precision: Precision = "fp32"
    compile: bool = False
    checkpoint_minutes: float = 2.0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        _at_least(1, cycle_epochs=self.cycle_epochs, t_mult=self.t_mult, batch_size=self.batch_size)
        _at_least(1, image_size=self.image_size, threads=self.threads, cycles=self.cycles)
        _at_least(0, split_seed=self.split_seed, seed=self.seed, crop_padding=self.crop_padding)
        _at_least(0, warmup_epochs=self.warmup_epochs, patience=self.patience, cutout=self.cutout)
        _at_least(0, max_bad_images=self.max_bad_images)
        _at_least(1, max_image_cost=self.max_image_cost)
        if self.max_image_cost > 10_000:
            raise InvalidConfig(f"max_image_cost is at most 10000, got {self.max_image_cost}")
        _at_least(0, checkpoint_minutes=self.checkpoint_minutes, weight_decay=self.weight_decay)
        _at_most(MAX_SIDE, image_size=self.image_size, cutout=self.cutout)
        _at_most(MAX_CYCLES, cycles=self.cycles, epochs=self.epochs, t_mult=self.t_mult)
        _at_most(MAX_THREADS, threads=self.threads)
        _at_most(MAX_CYCLES, cycle_epochs=self.cycle_epochs, warmup_epochs=self.warmup_epochs)
        _one_of(SCHEDULES, schedule=self.schedule)
        _one_of(get_args(HyperRule), hyper_rule=self.hyper_rule)
        _one_of(get_args(Precision), precision=self.precision)
        _below_one(momentum=self.momentum, label_smoothing=self.label_smoothing)
        if self.batch_size == 1:
            raise InvalidConfig("batch_size must be at least 2: batch normalisation needs two")
        if max(self.seed, self.split_seed) >= MAX_SEED:
            raise InvalidConfig(f"seeds must be below {MAX_SEED}")
        if not 0 < self.val_fraction < 1:
            raise InvalidConfig(f"val_fraction must be between 0 and 1, got {self.val_fraction}")
        if self.cycles is not None and self.epochs is not None:
            raise InvalidConfig("give either cycles or epochs, not both")
        shares = list(self.lr_steps)
        if shares != sorted(set(shares)) or not all(0 < share < 1 for share in shares):
            raise InvalidConfig(
                f"lr_steps are rising shares of the run, between 0 and 1; got {shares}"
            )
        if not 0 < self.lr_factor < 1:
            raise InvalidConfig(f"lr_factor must be between 0 and 1, got {self.lr_factor}")
        if self.random_resized_crop is not None and not 0 < self.random_resized_crop <= 1:
            raise InvalidConfig(
                "random_resized_crop is the smallest share of the image's area, above 0 and at "
                f"most 1; got {self.random_resized_crop}"
            )
        if self.random_resized_crop is not None and self.crop_padding:
            raise InvalidConfig("give either crop_padding or random_resized_crop, not both")
        self._refuse_what_belongs_to_other_schedules()
        self.plan(steps_per_epoch=1)  # checks the budget and the rates

    @property
    def cycle_count(self) -> int:
        """How many cycles to train: `cycles`, or the number that `epochs` makes; 5 by default."""
        if self.epochs is not None:
            return cycles_in(self.epochs, self.cycle_epochs, self.t_mult)
        return 5 if self.cycles is None else self.cycles

    @property
    def top_rate(self) -> float:
        """The highest learning rate."""
        if self.lr_max is not None:
            return self.lr_max
        return LR_MAX if self.pretrained is None else FINE_TUNING_LR_MAX

    def plan(self, steps_per_epoch: int) -> Plan:
        """The schedule in optimizer steps, and where its snapshots lie."""
        interval = self.cycle_epochs * steps_per_epoch
        cycles = tuple(first_cycles(self.cycle_count, interval, self.t_mult))
        if self.t_mult > 1 and cycles[-1].length > 2**53:
            raise InvalidConfig(f"{len(cycles)} cycles with t_mult {self.t_mult} never end")
        schedule = self._schedule(interval, cycles[-1].end, steps_per_epoch)
        if isinstance(schedule, Sgdr):
            schedule.refuse_low_restart(len(cycles) - 1)
        return Plan(schedule, cycles, steps_per_epoch)

    def _schedule(self, interval: int, steps: int, steps_per_epoch: int) -> Schedule:
        eta = self.top_rate
        if not (isfinite(eta) and eta > 0):
            raise InvalidConfig(f"lr_max must be above 0, got {eta}")
        match self.schedule:
            case "sgdr" | "cosine":
                return Sgdr(
                    T_0=interval if self.schedule == "sgdr" else steps,
                    T_mult=self.t_mult,
                    eta_max=eta,
                    eta_min=self.lr_min,
                    warmup=self.warmup_epochs * steps_per_epoch,
                    eta_max_decay=self.lr_max_decay,
                )
            case "step":
                milestones = tuple(round(share * steps) for share in self.lr_steps)
                return StepDecay(eta=eta, milestones=milestones, factor=self.lr_factor)
            case "plateau":
                return Plateau(
                    eta=eta, eta_min=self.lr_min, factor=self.lr_factor, patience=self.patience
                )
            case "constant":
                return Constant(eta=eta)
            case "hypergradient":
                beta = 0.001 if self.hyper_rule == "additive" else 0.02
                return Hypergradient(
                    eta_start=self.lr_start,
                    eta_max=eta,
                    beta=beta if self.hyper_lr is None else self.hyper_lr,
                    rule=self.hyper_rule,
                )

    def _refuse_what_belongs_to_other_schedules(self) -> None:
        defaults = {field.name: field.default for field in fields(self)}
        for name, schedules in BELONGS.items():
            if getattr(self, name) != defaults[name] and self.schedule not in schedules:
                raise InvalidConfig(
                    f"{name} belongs to the schedule {' or '.join(sorted(schedules))}, "
                    f"not to {self.schedule}"
                )


def _at_least(bound: int, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not bound <= value < inf:
            raise InvalidConfig(f"{name} must be at least {bound}, got {value}")


def _at_most(bound: int, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value > bound:
            raise InvalidConfig(f"{name} must be at most {bound}, got {value}")


def _below_one(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise InvalidConfig(f"{name} must be in [0, 1), got {value}")


def _one_of(choices: tuple[str, ...], **values: str) -> None:
    for name, value in values.items():
        if value not in choices:
            raise InvalidConfig(f"{name} must be one of {', '.join(choices)}; got {value!r}")
