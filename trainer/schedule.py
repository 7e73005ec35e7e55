"""SGDR as pure functions of the integer step (Loshchilov & Hutter, ICLR 2017, arXiv:1608.03983)."""

from dataclasses import dataclass
from math import cos, isfinite, pi

from contracts.errors import InvalidConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Sgdr:
    """Cosine annealing with warm restarts. Lengths in optimizer steps."""

    T_0: int
    T_mult: int = 1
    eta_max: float = 0.1
    eta_min: float = 0.0

    def __post_init__(self) -> None:
        if self.T_0 < 1:
            raise InvalidConfig(f"T_0 must be at least 1 step, got {self.T_0}")
        if self.T_mult < 1:
            raise InvalidConfig(f"T_mult must be at least 1, got {self.T_mult}")
        if not (isfinite(self.eta_max) and 0 <= self.eta_min < self.eta_max):
            raise InvalidConfig(
                f"learning rates must satisfy 0 <= eta_min < eta_max, "
                f"got eta_min {self.eta_min} and eta_max {self.eta_max}"
            )


@dataclass(frozen=True, slots=True)
class Cycle:
    """One annealing period: steps `start` to `start + length - 1`."""

    index: int
    start: int
    length: int

    @property
    def end(self) -> int:
        """The step of the restart that follows: updates done when the snapshot is taken."""
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

    The first update of a cycle has exactly `eta_max`; the last one has the cycle's lowest rate,
    one step before it would reach `eta_min`.
    """
    cycle = cycle_at(step, sgdr)
    progress = (step - cycle.start) / cycle.length  # T_cur / T_i, in [0, 1)
    return sgdr.eta_min + (sgdr.eta_max - sgdr.eta_min) * (1 + cos(pi * progress)) / 2


def first_cycles(count: int, sgdr: Sgdr) -> list[Cycle]:
    """Cycles 0 to `count` - 1, in order."""
    cycles = [Cycle(0, 0, sgdr.T_0)]
    while len(cycles) < count:
        last = cycles[-1]
        cycles.append(Cycle(last.index + 1, last.end, last.length * sgdr.T_mult))
    return cycles


def cycles_in(budget: int, T_0: int, T_mult: int) -> int:
    """How many whole cycles make exactly `budget`; all three in the same unit.

    Raises:
        InvalidConfig: the budget ends inside a cycle, where the rate is high and a snapshot is
            worth little. The message names the nearest budgets that fit.
    """
    cycles, end, length = 0, 0, T_0
    while end + length <= budget:
        cycles, end, length = cycles + 1, end + length, length * T_mult
    if end == budget and cycles:
        return cycles
    fitting = [str(e) for e in (end, end + length) if e]
    raise InvalidConfig(
        f"a budget of {budget} epochs ends inside a cycle (first cycle {T_0}, T_mult {T_mult}); "
        f"the nearest that end with one: {' or '.join(fitting)}"
    )
