"""TrainConfig: every choice that a training run depends on, as flags and as TOML."""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, JsonValue, field_validator, model_validator

from snapensemble.contracts.errors import Misfit
from snapensemble.contracts.options import Options, extra
from snapensemble.contracts.pixels import MAX_SIDE
from snapensemble.contracts.run import RestartFrom, ScheduleName
from snapensemble.trainer.data.dataset import SPECS
from snapensemble.trainer.data.decoding import MAX_IMAGE_COST
from snapensemble.trainer.schedule import Cycle, Sgdr, cycles_in, cycles_of, first_lengths
from snapensemble.trainer.schedules import (
    Constant,
    Hypergradient,
    HyperRule,
    Plan,
    Plateau,
    Schedule,
    StepDecay,
)

MAX_SEED = 2**32 - 1
MAX_CYCLES = 10_000
MAX_THREADS = 1024
MAX_MINUTES = 60 * 24 * 365
LR_MAX = 0.1
WEIGHT_DECAY = 5e-4
CYCLES, CYCLE_EPOCHS = 5, 10  # where one of them is given, or the schedule is another than SGDR
Whole = Annotated[int, Field(ge=1, le=MAX_CYCLES)]
HUB = "hub"  # `pretrained`: the published weights, not a file
FRESH = "none"  # `pretrained`: random weights, where published ones are the default
SCHEDULES: tuple[ScheduleName, ...] = get_args(ScheduleName)
# The settings that the schedules call by the symbols of their papers.
SYMBOLS = {
    "T_0": "cycle_epochs",
    "T_1": "cycle_epochs",
    "T_mult": "t_mult",
    "eta": "lr_max",
    "eta_max": "lr_max",
    "eta_max_decay": "lr_max_decay",
    "eta_min": "lr_min",
    "eta_start": "lr_start",
    "warmup": "warmup_epochs",
    "beta": "hyper_lr",
}


def of(*schedules: ScheduleName) -> dict[str, JsonValue]:
    """The schedules that a setting belongs to; with any other it is refused."""
    return {"belongs_to": list(schedules)}


class TrainConfig(Options):
    """What `train` needs to know; None is a choice that depends on the images or on others.

    `cycle_epochs` is the first cycle's length, or the second's where `first_cycle_epochs` gives the
    first one its own; each later one is `t_mult` times as long as the one before. Schedules other
    than SGDR use the same budget and take as many snapshots, equally spaced.
    """

    data: str = Field(description=SPECS, json_schema_extra={"metavar": "SPEC"})
    out: Path = Field(
        description="a new directory for the run", json_schema_extra={"metavar": "RUN_DIR"}
    )
    schedule: ScheduleName = Field(
        "sgdr", description="sgdr, or what it is compared with at the same budget"
    )
    model: str | None = Field(
        None,
        description="network; docs/networks.md lists them (small up to 16 pixels, resnet20 above)",
    )
    pretrained: str | None = Field(
        None,
        description="begin with published weights, those of a FILE, or none (published for "
        "efficientnet-lite, if the extra pretrained is installed; none for the others)",
        json_schema_extra={"metavar": "FILE", "const": HUB},
    )
    tune: str | None = Field(
        None,
        description="what is trained of a pretrained network: all, or a stage such as stage7 and "
        "what follows it, or the head; the rest is computed once (stage7 of efficientnet-lite)",
        json_schema_extra={"metavar": "STAGE"},
    )
    views: Whole = Field(
        4, description="with a stage to tune: random parts of each picture that are computed"
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="with --tune all: the rate of each stage is this share of the next one's",
    )
    cycles: Whole | None = Field(
        None,
        description="number of cycles, one snapshot each (as many as pay, see --epochs; "
        "5 with --cycle-epochs)",
    )
    epochs: Whole | None = Field(
        None,
        description="total epochs; divided into cycles of at least 900 updates and 35 epochs, up "
        "to 5, or into those that --cycle-epochs and --t-mult make (50, or 3,000 updates; 12, or "
        "240 updates, in one cycle, with pretrained weights)",
    )
    minutes: float | None = Field(
        None,
        gt=0,
        le=MAX_MINUTES,
        description="instead of --epochs: as many as fit into so many minutes on this machine",
    )
    cycle_epochs: Whole | None = Field(
        None,
        description="epochs in the first cycle, or in the second if the first has its own "
        "(10 with --cycles)",
    )
    first_cycle_epochs: Whole | None = Field(
        None,
        description="epochs in the first cycle, if it has a length of its own",
        json_schema_extra=of("sgdr"),
    )
    t_mult: float = Field(
        1,
        ge=1,
        le=MAX_CYCLES,
        description="each cycle is this many times as long as the one before",
        json_schema_extra=of("sgdr"),
    )
    lr_max: float | None = Field(
        None,
        gt=0,
        description="highest learning rate (0.1; of a pretrained network 0.01 for all, 0.03 for a "
        "stage in one cycle)",
    )
    lr_min: float = Field(
        0.0,
        ge=0,
        description="rate that a cycle falls towards; the lowest of plateau",
        json_schema_extra=of("sgdr", "cosine", "plateau"),
    )
    restart_from: RestartFrom | None = Field(
        None,
        description="whose weights a later cycle begins with: those of the previous cycle, or of "
        "the first (previous; first with pretrained weights)",
        json_schema_extra=of("sgdr"),
    )
    lr_max_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="each restart is at this multiple of the one before",
        json_schema_extra=of("sgdr"),
    )
    warmup_epochs: int | None = Field(
        None,
        ge=0,
        le=MAX_CYCLES,
        description="epochs in which the rate climbs first (0; 1 with pretrained weights)",
        json_schema_extra=of("sgdr", "cosine"),
    )
    lr_steps: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.5, 0.75),
        description="shares of the run after which the rate falls",
        json_schema_extra=of("step"),
    )
    lr_factor: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="the rate is multiplied by this",
        json_schema_extra=of("step", "plateau"),
    )
    patience: int = Field(
        5,
        ge=0,
        description="epochs without a better validation NLL before the rate falls",
        json_schema_extra=of("plateau"),
    )
    lr_start: float = Field(
        0.001,
        gt=0,
        description="first rate; --lr-max is the highest it may reach",
        json_schema_extra=of("hypergradient"),
    )
    hyper_lr: float | None = Field(
        None,
        ge=0,
        description="beta, the rate's own rate (0.001; multiplicative: 0.02)",
        json_schema_extra=of("hypergradient"),
    )
    hyper_rule: HyperRule = Field(
        "additive", description="how the rate moves", json_schema_extra=of("hypergradient")
    )
    frozen_statistics: bool | None = Field(
        None,
        description="keep batch normalisation's mean and variance (with pretrained weights)",
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        description="longest gradient; longer ones are scaled down (1 with pretrained weights)",
    )
    batch_size: int | None = Field(
        None,
        ge=2,
        description="images per step, over all processes; batch normalisation needs two "
        "(128, or less where an epoch would have fewer than 20 steps; 32 with pretrained weights)",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum")
    weight_decay: float | None = Field(
        None,
        ge=0,
        description="L2 penalty (0.0005; 0.002 on up to 2,500 training images; 0.0001 with "
        "pretrained weights)",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of each label that is spread over all classes"
    )
    image_size: int | None = Field(
        None,
        ge=1,
        le=MAX_SIDE,
        description="height and width in pixels; folders only (64; 160 with pretrained weights)",
    )
    crop_padding: int | None = Field(
        None,
        ge=0,
        description="random shift in pixels (an eighth of the image's height, none below 16)",
    )
    flip: bool | None = Field(
        None, description="mirror half of the images (where a mirror image keeps its class)"
    )
    cutout: int = Field(
        0,
        ge=0,
        le=MAX_SIDE,
        description="side in pixels of a square that is removed from each image",
    )
    random_resized_crop: float | None = Field(
        None,
        gt=0,
        le=1,
        description="show random parts of at least this share of the area, not shifts "
        "(0.35 of a folder's pictures with pretrained weights)",
    )
    max_bad_images: int = Field(
        0, ge=0, description="unreadable files of a folder that are left out; more end the run"
    )
    max_image_cost: float = Field(
        MAX_IMAGE_COST,
        ge=1,
        le=10_000,
        description="what decoding a picture may cost, in times what a server accepts",
    )
    val_fraction: float = Field(0.1, gt=0, lt=1, description="share of each class that validates")
    split_seed: int = Field(
        0,
        ge=0,
        le=MAX_SEED,
        description="which images validate; the same for runs that are compared",
    )
    seed: int = Field(0, ge=0, le=MAX_SEED, description="weights, order and augmentation")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    threads: int | None = Field(
        None, ge=1, le=MAX_THREADS, description="CPU threads (all that this process may use)"
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast, for GPUs")
    compile: bool = Field(False, description="torch.compile: a slow first step, then faster ones")
    checkpoint_minutes: float = Field(
        2.0, ge=0, description="minutes between checkpoints, which --resume goes on from"
    )
    tensorboard: bool = Field(False, description="TensorBoard event files in RUN_DIR/tensorboard")

    @field_validator("lr_steps")
    @classmethod
    def _steps_rise(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if list(shares) != sorted(set(shares)):
            raise ValueError("expected shares that rise")
        return shares

    @model_validator(mode="after")
    def _settings_fit_together(self) -> "TrainConfig":
        if self.cycles is not None and self.epochs is not None:
            raise Misfit("give either {cycles} or {epochs}, not both")
        if self.minutes is not None and self.epochs is not None:
            raise Misfit("give either {minutes} or {epochs}, not both")
        if self.minutes is not None and self._gives_lengths:
            raise Misfit(
                "{minutes} finds out how long cycles can be: leave {cycle_epochs}, "
                "{first_cycle_epochs} and {t_mult} out"
            )
        if self.random_resized_crop is not None and self.crop_padding:
            raise Misfit("give either {crop_padding} or {random_resized_crop}, not both")
        for name, field in type(self).model_fields.items():
            owners = extra(field).get("belongs_to", SCHEDULES)
            if self.schedule not in owners and getattr(self, name) != field.default:
                raise Misfit(
                    f"{{{name}}} belongs to the schedule {' or '.join(owners)}, "
                    f"not to {self.schedule}; leave it out, or choose another {{schedule}}"
                )
        try:
            self.plan(steps_per_epoch=1)
        except Misfit as error:
            own = {} if self.first_cycle_epochs is None else {"T_0": "first_cycle_epochs"}
            raise error.renamed({**SYMBOLS, **own}) from None
        return self

    @property
    def fine_tunes(self) -> bool:
        """Whether training begins with pretrained weights."""
        return self.pretrained not in (None, FRESH)

    @property
    def is_star(self) -> bool:
        """Whether all later cycles begin with the first one's weights."""
        return self.restart_from == "first"

    @property
    def divides_itself(self) -> bool:
        """Whether `trainer.budget` is to divide the budget into cycles."""
        return self.minutes is not None or (
            self.schedule == "sgdr" and self.cycles is None and not self._gives_lengths
        )

    @property
    def _gives_lengths(self) -> bool:
        lengths = (self.cycle_epochs, self.first_cycle_epochs)
        return lengths != (None, None) or self.t_mult != 1

    @property
    def cycle_count(self) -> int:
        """How many cycles to train: `cycles`, or the number that `epochs` makes; 5 by default."""
        if self.epochs is not None:
            return cycles_in(self.epochs, *self._growth)
        return CYCLES if self.cycles is None else self.cycles

    @property
    def cycle_lengths(self) -> list[int]:
        """The length of each cycle in epochs; of an undivided budget one cycle stands for all."""
        if self.divides_itself:
            return [self.epochs or MAX_CYCLES]
        return first_lengths(self.cycle_count, *self._growth)

    @property
    def _growth(self) -> tuple[int, float, int | None]:
        """T_0 and T_mult, and T_1 where the first cycle has a length of its own."""
        cycle_epochs = CYCLE_EPOCHS if self.cycle_epochs is None else self.cycle_epochs
        if self.first_cycle_epochs is None:
            return cycle_epochs, self.t_mult, None
        return self.first_cycle_epochs, self.t_mult, cycle_epochs

    @property
    def top_rate(self) -> float:
        """The highest learning rate; 0.1 where nothing has said what it is."""
        return LR_MAX if self.lr_max is None else self.lr_max

    @property
    def l2_penalty(self) -> float:
        """The weight decay; 0.0005 where nothing has said what it is."""
        return WEIGHT_DECAY if self.weight_decay is None else self.weight_decay

    def plan(self, steps_per_epoch: int) -> Plan:
        """The schedule in optimizer steps, and where its snapshots lie."""
        cycles = cycles_of([length * steps_per_epoch for length in self.cycle_lengths])
        return Plan(
            self._schedule(cycles, steps_per_epoch),
            cycles,
            steps_per_epoch,
            self.restart_from or "previous",
        )

    def _schedule(self, cycles: tuple[Cycle, ...], steps_per_epoch: int) -> Schedule:
        eta, steps = self.top_rate, cycles[-1].end
        match self.schedule:
            case "sgdr" | "cosine":
                return Sgdr(
                    cycles=cycles if self.schedule == "sgdr" else cycles_of([steps]),
                    eta_max=eta,
                    eta_min=self.lr_min,
                    warmup=(self.warmup_epochs or 0) * steps_per_epoch,
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
