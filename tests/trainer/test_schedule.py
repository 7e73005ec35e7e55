from fractions import Fraction
from itertools import accumulate, pairwise, takewhile
from math import cos, pi
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.trainer.schedule import (
    Cycle,
    Sgdr,
    cycle_at,
    cycle_lengths,
    cycles_in,
    cycles_of,
    first_lengths,
    learning_rate,
)

GRID = [(T_0, T_mult) for T_0 in (1, 2, 5, 10) for T_mult in (1, 2, 3)]
LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=12)
GROWTHS = st.decimals(1, 3, places=2).map(float)


def restarts(T_0: int, T_mult: int, count: int) -> list[int]:
    """Closed form of the first restarts: T_0 (T_mult^i - 1) / (T_mult - 1), or T_0 i."""
    if T_mult == 1:
        return [T_0 * i for i in range(count)]
    return [int(Fraction(T_0 * (T_mult**i - 1), T_mult - 1)) for i in range(count)]


def grown(T_0: int, T_mult: int, count: int = 9, **rates: Any) -> Sgdr:
    """The schedule of the paper with its first `count` cycles."""
    return Sgdr(cycles=cycles_of(first_lengths(count, T_0, T_mult)), **rates)


@pytest.mark.parametrize(("T_0", "T_mult"), GRID)
def test_every_rate_equals_equation_5_over_nine_restarts(T_0: int, T_mult: int) -> None:
    sgdr = grown(T_0, T_mult, eta_max=0.2, eta_min=0.01)
    starts = restarts(T_0, T_mult, 9)
    for i in range(9):  # eight restarts after the start
        T_i = T_0 * T_mult**i
        # Long cycles by samples: both ends, and some steps between.
        for T_cur in {*range(min(T_i, 50)), T_i // 2, T_i - 2, T_i - 1} & set(range(T_i)):
            expected = 0.01 + 0.5 * (0.2 - 0.01) * (1 + cos(pi * T_cur / T_i))
            assert learning_rate(starts[i] + T_cur, sgdr) == pytest.approx(expected, abs=1e-15)


@given(LENGTHS, st.floats(0.5, 1))
def test_a_cycle_falls_from_exactly_its_highest_rate_to_its_lowest(
    lengths: list[int], decay: float
) -> None:
    sgdr = Sgdr(cycles=cycles_of(lengths), eta_max=0.3, eta_max_decay=decay)
    for cycle in sgdr.cycles:
        rates = [learning_rate(step, sgdr) for step in range(cycle.start, cycle.end)]
        assert rates[0] == 0.3 * decay**cycle.index
        assert all(before > after for before, after in pairwise(rates))


def test_cycles_that_a_float_logarithm_misses_are_found() -> None:
    # floor(log(t / T_0 * (T_mult - 1) + 1, T_mult)) gives 4 for the fifth restart of T_mult 3.
    assert cycle_at(121, grown(1, 3).cycles) == Cycle(5, 121, 243)
    assert cycle_at(111, grown(1, 10).cycles) == Cycle(3, 111, 1000)


@given(LENGTHS)
def test_every_step_lies_in_its_cycle_and_none_after_the_last(lengths: list[int]) -> None:
    cycles = cycles_of(lengths)
    owners = [index for index, length in enumerate(lengths) for _ in range(length)]
    assert [cycle_at(step, cycles).index for step in range(sum(lengths))] == owners
    assert [cycle.end for cycle in cycles] == list(accumulate(lengths))
    for step in (-1, sum(lengths)):
        with pytest.raises(ValueError, match=f"step {step} is in no cycle; they end at"):
            learning_rate(step, Sgdr(cycles=cycles))


def test_the_warm_up_climbs_in_equal_parts_and_the_first_cycle_still_ends_in_time() -> None:
    sgdr = Sgdr(cycles=cycles_of([8, 8]), eta_max=0.4, warmup=3)
    rates = [learning_rate(step, sgdr) for step in range(16)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    # five steps of annealing are left: 0.2 (1 + cos(pi k / 5))
    assert rates[3:8] == pytest.approx([0.4, 0.361803, 0.261803, 0.138197, 0.038197], abs=1e-6)
    assert rates[8] == 0.4  # restarts have no warm-up
    plain = Sgdr(cycles=cycles_of([8]), eta_max=0.4)
    assert rates[8:] == [learning_rate(step, plain) for step in range(8)]


def test_each_restart_is_lower_where_asked_and_falls_to_the_same_bottom() -> None:
    sgdr = grown(2, 2, count=3, eta_max=0.8, eta_min=0.1, eta_max_decay=0.5)
    assert [learning_rate(step, sgdr) for step in (0, 2, 6)] == [0.8, 0.4, 0.2]
    # halfway through a cycle: the mean of its top and eta_min
    assert [learning_rate(step, sgdr) for step in (1, 4, 10)] == pytest.approx([0.45, 0.25, 0.15])
    with pytest.raises(InvalidConfig, match="the restart of cycle 3 would be at 0.1, not above"):
        grown(2, 2, count=4, eta_max=0.8, eta_min=0.1, eta_max_decay=0.5)


@pytest.mark.parametrize(
    ("T_0", "T_mult", "T_1", "lengths"),
    [
        (10, 1, None, [10, 10, 10, 10, 10]),
        (2, 3, None, [2, 6, 18, 54, 162]),
        (10, 1.5, None, [10, 15, 23, 34, 51]),  # 22.5 upwards, 33.75, 50.625
        (1, 1.5, None, [1, 2, 2, 3, 5]),  # from the exact 2.25 and 3.375, not from what is rounded
        (5, 1.7, None, [5, 9, 14, 25, 42]),  # 8.5 upwards: as a binary number 1.7 is below 17/10
        (20, 1, 8, [20, 8, 8, 8, 8]),
        (20, 1.5, 8, [20, 8, 12, 18, 27]),
    ],
)
def test_cycles_grow_from_the_first_or_from_the_second(
    T_0: int, T_mult: float, T_1: int | None, lengths: list[int]
) -> None:
    assert first_lengths(5, T_0, T_mult, T_1) == lengths


@given(st.integers(1, 9), GROWTHS, st.none() | st.integers(1, 9), st.integers(1, 15))
def test_every_length_is_the_nearest_whole_number_of_the_exact_growth(
    T_0: int, T_mult: float, T_1: int | None, count: int
) -> None:
    lengths = first_lengths(count, T_0, T_mult, T_1)
    growing, first = (lengths, T_0) if T_1 is None else (lengths[1:], T_1)
    hundredths = round(100 * T_mult)
    for i, length in enumerate(growing):
        exact = Fraction(first * hundredths**i, 100**i)
        assert -Fraction(1, 2) < length - exact <= Fraction(1, 2)
    assert all(before <= after for before, after in pairwise(growing))
    assert first_lengths(count + 2, T_0, T_mult, T_1)[:count] == lengths  # more change none


def test_cycles_that_grow_without_measure_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="10000 cycles with T_mult 1.01 never end"):
        first_lengths(10_000, 1, 1.01)


@given(st.integers(1, 9), GROWTHS, st.none() | st.integers(1, 9), st.integers(1, 300))
def test_a_budget_ends_with_a_cycle_or_is_refused_with_the_nearest_that_do(
    T_0: int, T_mult: float, T_1: int | None, budget: int
) -> None:
    ends = list(takewhile(lambda end: end <= 900, accumulate(cycle_lengths(T_0, T_mult, T_1))))
    if budget in ends:
        assert cycles_in(budget, T_0, T_mult, T_1) == ends.index(budget) + 1
        return
    before = [end for end in ends if end < budget][-1:]
    text = " or ".join(map(str, [*before, ends[len([end for end in ends if end < budget])]]))
    with pytest.raises(InvalidConfig, match=f"that end with one: {text}$"):
        cycles_in(budget, T_0, T_mult, T_1)


@pytest.mark.parametrize(
    ("budget", "T_0", "T_mult", "cycles"),
    [
        (10, 10, 2, 1),
        (30, 10, 2, 2),
        (150, 10, 2, 4),
        (200, 40, 1, 5),
        (1, 1, 1, 1),
        (25, 10, 1.5, 2),
    ],
)
def test_a_budget_that_ends_on_a_cycle_is_counted(
    budget: int, T_0: int, T_mult: float, cycles: int
) -> None:
    assert cycles_in(budget, T_0, T_mult) == cycles


@pytest.mark.parametrize(
    ("budget", "T_0", "T_mult", "nearest"),
    [
        (200, 10, 2, "150 or 310"),
        (29, 10, 1, "20 or 30"),
        (5, 10, 1, "10"),
        (30, 10, 1.5, "25 or 48"),
    ],
)
def test_a_budget_that_ends_inside_a_cycle_is_refused_with_the_nearest(
    budget: int, T_0: int, T_mult: float, nearest: str
) -> None:
    with pytest.raises(InvalidConfig, match=f"that end with one: {nearest}$"):
        cycles_in(budget, T_0, T_mult)


ONE, FIVE = cycles_of([1]), cycles_of([5])


@pytest.mark.parametrize(
    "values",
    [
        {"cycles": ()},
        {"cycles": cycles_of([3, 0])},
        {"cycles": FIVE + ONE},  # both begin at step 0
        {"cycles": ONE, "eta_max": 0.1, "eta_min": 0.1},
        {"cycles": ONE, "eta_min": -0.1},
        {"cycles": ONE, "eta_max": float("nan")},
        {"cycles": ONE, "eta_max": float("inf")},
        {"cycles": FIVE, "warmup": 5},
        {"cycles": FIVE, "warmup": -1},
        {"cycles": ONE, "eta_max_decay": 0.0},
        {"cycles": ONE, "eta_max_decay": 1.1},
    ],
)
def test_a_schedule_that_cannot_be_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig):
        Sgdr(**values)
