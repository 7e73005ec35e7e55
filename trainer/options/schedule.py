"""ScheduleOptions: the budget, its cycles and their rates, and the plan that they come to."""

from typing import Annotated, get_args

from pydantic import Field, JsonValue, field_validator, model_validator

from snapensemble.contracts.errors import Misfit
from snapensemble.contracts.options import Options, extra
from snapensemble.contracts.run import RestartFrom, ScheduleName
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

MAX_CYCLES = 10_000
MAX_MINUTES = 60 * 24 * 365
LR_MAX = 0.1
CYCLES, CYCLE_EPOCHS = 5, 10  # where one of them is given, or the schedule is another than SGDR
Whole = Annotated[int, Field(ge=1, le=MAX_CYCLES)]
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


class ScheduleOptions(Options):
    """How long, in which cycles, and at which rates.

    `cycle_epochs` is the first cycle's length, or the second's where `first_cycle_epochs` gives the
    first one its own; each later one is `t_mult` times as long as the one before. Schedules other
    than SGDR use the same budget and take as many snapshots, equally spaced.
    """

    schedule: ScheduleName = Field(
        "sgdr", description="sgdr, or what it is compared with at the same budget"
    )
    cycles: Whole | None = Field(
        None,
        description="number of cycles, one snapshot each (as --epochs says; 5 with --cycle-epochs)",
    )
    epochs: Whole | None = Field(
        None,
        description="total epochs; one cycle, with restarts if the network fits its images early, "
        "or the cycles that --cycle-epochs and --t-mult make (50, or 4,500 updates; 12, or 240 "
        "updates, with pretrained weights)",
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

    @field_validator("lr_steps")
    @classmethod
    def _steps_rise(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if list(shares) != sorted(set(shares)):
            raise ValueError("expected shares that rise")
        return shares

    @model_validator(mode="after")
    def _lengths_and_rates_fit_together(self) -> "ScheduleOptions":
        if self.cycles is not None and self.epochs is not None:
            raise Misfit("give either {cycles} or {epochs}, not both")
        if self.minutes is not None and self.epochs is not None:
            raise Misfit("give either {minutes} or {epochs}, not both")
        if self.minutes is not None and self._gives_lengths:
            raise Misfit(
                "{minutes} finds out how long cycles can be: leave {cycle_epochs}, "
                "{first_cycle_epochs} and {t_mult} out"
            )
        for name, field in ScheduleOptions.model_fields.items():
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
