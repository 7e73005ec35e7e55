"""SGDR as pure functions of the integer step (Loshchilov & Hutter, ICLR 2017, arXiv:1608.03983)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, isfinite, pi

from snapensemble.contracts.errors import Misfit


@dataclass(frozen=True, slots=True, kw_only=True)
class Sgdr:
    """Cosine annealing with warm restarts. Lengths are in optimizer steps.

    `warmup` steps of the first cycle climb to `eta_max` in equal parts (Goyal et al. 2017,
    arXiv:1706.02677, section 2.2); each restart goes to `eta_max_decay` times the rate of the one
    before, as the paper suggests.
    """

    T_0: int
    T_mult: int = 1
    eta_max: float = 0.1
    eta_min: float = 0.0
    warmup: int = 0
    eta_max_decay: float = 1.0

    def __post_init__(self) -> None:
        if self.T_0 < 1:
            raise Misfit(f"{{T_0}} must be at least 1 step, got {self.T_0}")
        if self.T_mult < 1:
            raise Misfit(f"{{T_mult}} must be at least 1, got {self.T_mult}")
        if not (isfinite(self.eta_max) and 0 <= self.eta_min < self.eta_max):
            raise Misfit(
                f"{{eta_min}} must be at least 0 and below {{eta_max}}, "
                f"got {self.eta_min} and {self.eta_max}"
            )
        if not 0 <= self.warmup < self.T_0:
            raise Misfit(
                f"{{warmup}} must be shorter than the first cycle, got {self.warmup} of {self.T_0}"
            )
        if not 0 < self.eta_max_decay <= 1:
            raise Misfit(f"{{eta_max_decay}} must be in (0, 1], got {self.eta_max_decay}")

    def refuse_low_restart(self, cycle: int) -> None:
        """Raise Misfit if the decay takes a restart below `eta_min` up to this cycle."""
        restart = self.eta_max * self.eta_max_decay**cycle
        if restart <= self.eta_min:
            raise Misfit(
                f"the restart of cycle {cycle} would be at {restart:.4g}, not above {{eta_min}} "
                f"{self.eta_min}; lower it, or raise {{eta_max_decay}}"
            )

    def rate(self, step: int, val_nlls: Sequence[float] = ()) -> float:
        """The learning rate of update number `step`; the validation NLLs play no part."""
        return learning_rate(step, self)


@dataclass(frozen=True, slots=True)
class Cycle:
    """One annealing period: steps `start` to `start + length - 1`."""

    index: int
    start: int
    length: int

    @property
    def end(self) -> int:
        """The step of the restart that follows: the number of updates before the snapshot."""
        return self.start + self.length


def cycle_at(step: int, sgdr: Sgdr) -> Cycle:
    """The cycle that `step` belongs to, counted with integers.

    A logarithm would find it too, and would miss some restarts by rounding.
    """
    if step < 0:
        raise ValueError(f"step must not be negative, got {step}")
    index, start, length = 0, 0, sgdr.T_0
    while step >= start + length:
        index, start, length = index + 1, start + length, length * sgdr.T_mult
    return Cycle(index, start, length)


def learning_rate(step: int, sgdr: Sgdr) -> float:
    """Equation 5 of the paper, for the update number `step` (from 0), T_cur counted per step.

    The first update of a cycle has exactly `eta_max`, after the warm-up in the first one; the last
    update has the cycle's lowest rate, one step before it would reach `eta_min`.
    """
    cycle = cycle_at(step, sgdr)
    eta_max = sgdr.eta_max * sgdr.eta_max_decay**cycle.index
    warmup = sgdr.warmup if cycle.index == 0 else 0
    T_cur = step - cycle.start - warmup
    if T_cur < 0:
        return eta_max * (step + 1) / (warmup + 1)
    progress = T_cur / (cycle.length - warmup)  # in [0, 1)
    return sgdr.eta_min + (eta_max - sgdr.eta_min) * (1 + cos(pi * progress)) / 2


def first_cycles(count: int, T_0: int, T_mult: int) -> list[Cycle]:
    """Cycles 0 to `count` - 1, in order."""
    cycles = [Cycle(0, 0, T_0)]
    while len(cycles) < count:
        last = cycles[-1]
        cycles.append(Cycle(last.index + 1, last.end, last.length * T_mult))
    return cycles


def cycles_in(budget: int, T_0: int, T_mult: int) -> int:
    """How many whole cycles make exactly `budget`; all three in the same unit.

    Raises:
        Misfit: the budget ends inside a cycle, where the rate is high and a snapshot is
            worth little. The message names the nearest budgets that fit.
    """
    cycles, end, length = 0, 0, T_0
    while end + length <= budget:
        cycles, end, length = cycles + 1, end + length, length * T_mult
    if end == budget and cycles:
        return cycles
    fitting = " or ".join(str(each) for each in (end, end + length) if each)
    raise Misfit(
        f"a budget of {budget} epochs ends inside a cycle ({{T_0}} {T_0}, {{T_mult}} {T_mult}); "
        f"the nearest that end with one: {fitting}"
    )
