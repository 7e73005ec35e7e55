"""The schedules that SGDR is compared with, as pure functions of the step and the validation NLLs.

Rates are learning rates, lengths are optimizer steps unless they say epochs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Literal, Protocol

from snapensemble.contracts.errors import InvalidConfig, Misfit
from snapensemble.contracts.run import RestartFrom, Trial
from snapensemble.trainer.schedule import Cycle, Sgdr, cycle_at

HyperRule = Literal["additive", "multiplicative"]


class Schedule(Protocol):
    """A rule that says how far each optimizer update goes."""

    def rate(self, step: int, val_nlls: Sequence[float]) -> float | None:
        """The learning rate of update number `step`, counted from 0.

        Args:
            step: the update.
            val_nlls: the validation NLL after each epoch that is finished.

        Returns:
            The rate; None where the optimizer moves its rate itself.
        """


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule with its cycles; at the end of each a snapshot is taken.

    Where the schedule knows no cycles, these are the equal intervals between snapshots (the
    NoCycle baseline of Huang et al. 2017, section 4.1).
    """

    schedule: Schedule
    cycles: tuple[Cycle, ...]
    steps_per_epoch: int
    restart_from: RestartFrom = "previous"
    branch: int | None = None  # the only cycle that is trained here; None: all are
    trial: Trial | None = None
    if_fitted: "Plan | None" = None  # what becomes of it at the end of that one's first cycle

    @property
    def steps(self) -> int:
        """All updates of the run."""
        return self.cycles[-1].end

    @property
    def epochs(self) -> int:
        """The epochs up to the last one that is trained here."""
        last = self.cycles[-1 if self.branch is None else self.branch]
        return last.end // self.steps_per_epoch

    def is_last(self, cycle: Cycle) -> bool:
        """Whether all cycles are trained with this one."""
        return self.branch is None and cycle == self.cycles[-1]

    def cycle_of(self, epoch: int) -> Cycle:
        """The cycle that an epoch belongs to."""
        return cycle_at(epoch * self.steps_per_epoch, self.cycles)

    def decided(self, fitted: bool) -> "Plan":
        """The plan after the trial."""
        if fitted and self.if_fitted is not None:
            return self.if_fitted
        return replace(self, trial="not fitted", if_fitted=None)

    @property
    def falls_over(self) -> int | None:
        """The steps of the first fall, if a restart cuts it short."""
        return self.schedule.falls_over if isinstance(self.schedule, Sgdr) else None

    def is_cut(self, cycle: Cycle) -> bool:
        """Whether a restart cuts the cycle short, at a rate that has hardly fallen yet."""
        return self.falls_over is not None and cycle.index == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """One rate from beginning to end."""

    eta: float

    def rate(self, step: int, val_nlls: Sequence[float] = ()) -> float:
        """The rate of every update: `eta`."""
        return self.eta


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDecay:
    """Multiply the rate by `factor` at each milestone.

    As in He et al. 2016, arXiv:1512.03385, section 4.2.
    """

    eta: float
    milestones: tuple[int, ...]
    factor: float = 0.1

    def __post_init__(self) -> None:
        if list(self.milestones) != sorted(self.milestones):
            raise InvalidConfig(f"milestones must not fall, got {self.milestones}")

    def rate(self, step: int, val_nlls: Sequence[float] = ()) -> float:
        """`eta` times `factor` to the power of the milestones reached."""
        return self.eta * self.factor ** sum(step >= each for each in self.milestones)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plateau:
    """Multiply the rate by `factor` when the validation NLL has stopped falling.

    This is the rule of torch's ReduceLROnPlateau: an epoch is an improvement if its NLL lies below
    the best one so far by the fraction `threshold`; after more than `patience` epochs in a row
    without one the rate falls, not below `eta_min`, and the count begins anew.
    """

    eta: float
    eta_min: float = 0.0
    factor: float = 0.1
    patience: int = 5
    threshold: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 <= self.eta_min < self.eta:
            raise Misfit(
                f"{{eta_min}} must be at least 0 and below {{eta}}, "
                f"got {self.eta_min} and {self.eta}"
            )

    def rate(self, step: int, val_nlls: Sequence[float]) -> float:
        """The rate that the history of validation NLLs leads to."""
        eta, best, waited = self.eta, float("inf"), 0
        for nll in val_nlls:
            if nll < best * (1 - self.threshold):
                best, waited = nll, 0
            else:
                waited += 1
            if waited > self.patience:
                eta, waited = max(eta * self.factor, self.eta_min), 0
        return eta


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypergradient:
    """The rate descends its own gradient (Baydin et al. 2018, arXiv:1703.04782).

    `trainer.optimizers.HypergradientSgd` holds the equations; `beta` is the paper's
    hypergradient learning rate. The rate stays in [0, `eta_max`].
    """

    eta_start: float
    eta_max: float
    beta: float
    rule: HyperRule = "additive"

    def __post_init__(self) -> None:
        if not 0 < self.eta_start <= self.eta_max:
            raise Misfit(
                f"{{eta_start}} must be above 0 and at most {{eta_max}}, got {self.eta_start} and "
                f"{self.eta_max}"
            )
        if not (isfinite(self.beta) and self.beta >= 0):
            raise Misfit(f"{{beta}} must be at least 0, got {self.beta}")
        if self.rule == "multiplicative" and self.beta >= 1:
            raise Misfit(
                f"{{beta}} must be below 1 for the multiplicative rule, got {self.beta}: "
                "one step could take the rate to 0, where it would stay"
            )

    def rate(self, step: int, val_nlls: Sequence[float] = ()) -> None:
        """None, since the rate depends on the gradients, which the optimizer sees."""
        return
