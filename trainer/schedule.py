"""SGDR as pure functions of the integer step (Loshchilov & Hutter, ICLR 2017, arXiv:1608.03983)."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, islice
from math import cos, floor, isfinite, pi

from snapensemble.contracts.errors import Misfit

MAX_LENGTH = 2**53  # epochs of one cycle; nobody sees its end


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sgdr:
    """Cosine annealing with warm restarts: one fall of the rate for each length in the list.

    The paper's T_0 and T_mult are one way to make the list (`cycle_lengths`). `warmup` steps of the
    first cycle climb to `eta_max` in equal parts (Goyal et al. 2017, arXiv:1706.02677, section
    2.2); each restart goes to `eta_max_decay` times the rate of the one before, as the paper
    suggests. `falls_over` is how many steps the first fall would have taken that a restart cuts
    short, if there is such a one.
    """

    cycles: tuple[Cycle, ...]
    eta_max: float = 0.1
    eta_min: float = 0.0
    warmup: int = 0
    eta_max_decay: float = 1.0
    falls_over: int | None = None

    def __post_init__(self) -> None:
        lengths = [cycle.length for cycle in self.cycles]
        if not lengths or min(lengths) < 1 or self.cycles != cycles_of(lengths):
            raise Misfit(f"expected cycles of at least 1 step, one after the other, got {lengths}")
        if not (isfinite(self.eta_max) and 0 <= self.eta_min < self.eta_max):
            raise Misfit(
                f"{{eta_min}} must be at least 0 and below {{eta_max}}, "
                f"got {self.eta_min} and {self.eta_max}"
            )
        if not 0 <= self.warmup < lengths[0]:
            raise Misfit(
                f"{{warmup}} must be shorter than the first cycle, "
                f"got {self.warmup} of {lengths[0]}"
            )
        if self.falls_over is not None and self.falls_over < lengths[0]:
            raise Misfit(f"a fall over {self.falls_over} steps is not cut short by {lengths[0]}")
        if not 0 < self.eta_max_decay <= 1:
            raise Misfit(f"{{eta_max_decay}} must be in (0, 1], got {self.eta_max_decay}")
        last = len(lengths) - 1
        restart = self.eta_max * self.eta_max_decay**last
        if restart <= self.eta_min:
            raise Misfit(
                f"the restart of cycle {last} would be at {restart:.4g}, not above {{eta_min}} "
                f"{self.eta_min}; lower it, or raise {{eta_max_decay}}"
            )

    def rate(self, step: int, val_nlls: Sequence[float] = ()) -> float:
        """The learning rate of update number `step`; the validation NLLs play no part."""
        return learning_rate(step, self)


def learning_rate(step: int, sgdr: Sgdr) -> float:
    """Equation 5 of the paper, for the update number `step` (from 0), T_cur counted per step.

    The first update of a cycle has exactly `eta_max`, after the warm-up in the first one; the last
    update has the cycle's lowest rate, one step before it would reach `eta_min`.

    Raises:
        ValueError: the step is after the last cycle.
    """
    cycle = cycle_at(step, sgdr.cycles)
    eta_max = sgdr.eta_max * sgdr.eta_max_decay**cycle.index
    warmup = sgdr.warmup if cycle.index == 0 else 0
    T_cur = step - cycle.start - warmup
    if T_cur < 0:
        return eta_max * (step + 1) / (warmup + 1)
    length = cycle.length if cycle.index or sgdr.falls_over is None else sgdr.falls_over
    progress = T_cur / (length - warmup)  # in [0, 1)
    return sgdr.eta_min + (eta_max - sgdr.eta_min) * (1 + cos(pi * progress)) / 2


def cycle_at(step: int, cycles: Sequence[Cycle]) -> Cycle:
    """The cycle that `step` belongs to, found by comparing integers.

    For cycles that grow a logarithm would find it too, and would miss some restarts by rounding.

    Raises:
        ValueError: the step is before the first cycle or after the last one.
    """
    if not 0 <= step < cycles[-1].end:
        raise ValueError(f"step {step} is in no cycle; they end at {cycles[-1].end}")
    return cycles[bisect_right(cycles, step, key=lambda cycle: cycle.end)]


def cycles_of(lengths: Sequence[int]) -> tuple[Cycle, ...]:
    """Cycles of these lengths, one after the other from step 0."""
    starts = accumulate(lengths[:-1], initial=0)
    return tuple(map(Cycle, range(len(lengths)), starts, lengths))


def cycle_lengths(T_0: int, T_mult: float = 1, T_1: int | None = None) -> Iterator[int]:
    """Yield the lengths of cycle after cycle, in whole epochs, without an end.

    They are T_0, T_0 T_mult, T_0 T_mult^2, ...; with T_1 they are T_0, T_1, T_1 T_mult, T_1
    T_mult^2, ... Each is computed exactly and then rounded, halves upwards, so that all machines
    agree and an error does not grow. T_mult counts as the decimal number that it is written as.
    """
    growth, exact = Fraction(str(T_mult)), Fraction(T_0)
    if T_1 is not None:
        yield T_0
        exact = Fraction(T_1)
    while True:
        yield floor(exact + Fraction(1, 2))
        exact *= growth


def first_lengths(count: int, T_0: int, T_mult: float = 1, T_1: int | None = None) -> list[int]:
    """The lengths of cycles 0 to `count` - 1, in epochs.

    Raises:
        Misfit: they grow without measure.
    """
    lengths: list[int] = []
    for length in islice(cycle_lengths(T_0, T_mult, T_1), count):
        if length > MAX_LENGTH:
            raise Misfit(f"{count} cycles with {{T_mult}} {T_mult:g} never end")
        lengths.append(length)
    return lengths


def cycles_in(budget: int, T_0: int, T_mult: float = 1, T_1: int | None = None) -> int:
    """How many whole cycles make exactly `budget`; all lengths are in epochs.

    Raises:
        Misfit: the budget ends inside a cycle, where the rate is high and a snapshot is
            worth little. The message names the nearest budgets that fit.
    """
    cycles = end = before = 0
    lengths = cycle_lengths(T_0, T_mult, T_1)
    while end < budget:
        cycles, before, end = cycles + 1, end, end + next(lengths)
    if end == budget:
        return cycles
    fitting = " or ".join(str(each) for each in (before, end) if each)
    second = "" if T_1 is None else f"{{T_1}} {T_1}, "
    raise Misfit(
        f"a budget of {budget} epochs ends inside a cycle ({{T_0}} {T_0}, {second}"
        f"{{T_mult}} {T_mult:g}); the nearest that end with one: {fitting}"
    )
