from fractions import Fraction
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
    cycles_in,
    first_cycles,
    learning_rate,
)

GRID = [(T_0, T_mult) for T_0 in (1, 2, 5, 10) for T_mult in (1, 2, 3)]


def restarts(T_0: int, T_mult: int, count: int) -> list[int]:
    """Closed form of the first restarts: T_0 (T_mult^i - 1) / (T_mult - 1), or T_0 i."""
    if T_mult == 1:
        return [T_0 * i for i in range(count)]
    return [int(Fraction(T_0 * (T_mult**i - 1), T_mult - 1)) for i in range(count)]


@pytest.mark.parametrize(("T_0", "T_mult"), GRID)
def test_every_rate_equals_equation_5_over_nine_restarts(T_0: int, T_mult: int) -> None:
    sgdr = Sgdr(T_0=T_0, T_mult=T_mult, eta_max=0.2, eta_min=0.01)
    starts = restarts(T_0, T_mult, 9)
    for i in range(9):  # eight restarts after the start
        T_i = T_0 * T_mult**i
        # Long cycles by samples: both ends, and some steps between.
        for T_cur in {*range(min(T_i, 50)), T_i // 2, T_i - 2, T_i - 1} & set(range(T_i)):
            expected = 0.01 + 0.5 * (0.2 - 0.01) * (1 + cos(pi * T_cur / T_i))
            assert learning_rate(starts[i] + T_cur, sgdr) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(("T_0", "T_mult"), GRID)
def test_a_restart_has_exactly_the_highest_rate(T_0: int, T_mult: int) -> None:
    sgdr = Sgdr(T_0=T_0, T_mult=T_mult, eta_max=0.3)
    for start in restarts(T_0, T_mult, 12):
        assert learning_rate(start, sgdr) == 0.3


@pytest.mark.parametrize(("T_0", "T_mult"), GRID)
def test_the_last_step_of_a_cycle_has_its_lowest_rate(T_0: int, T_mult: int) -> None:
    sgdr = Sgdr(T_0=T_0, T_mult=T_mult)
    for cycle in first_cycles(6, T_0, T_mult):
        rates = [learning_rate(step, sgdr) for step in range(cycle.start, cycle.end)]
        assert rates == sorted(rates, reverse=True)
        assert rates[-1] == min(rates)


def test_cycles_that_a_float_logarithm_misses_are_found() -> None:
    # floor(log(t / T_0 * (T_mult - 1) + 1, T_mult)) gives 4 for the fifth restart of T_mult 3.
    assert cycle_at(121, Sgdr(T_0=1, T_mult=3)) == Cycle(5, 121, 243)
    assert cycle_at(111, Sgdr(T_0=1, T_mult=10)) == Cycle(3, 111, 1000)


@given(T_0=st.integers(1, 50), T_mult=st.integers(1, 5), step=st.integers(0, 10_000))
def test_every_step_lies_in_its_cycle(T_0: int, T_mult: int, step: int) -> None:
    cycle = cycle_at(step, Sgdr(T_0=T_0, T_mult=T_mult))
    assert cycle.start <= step < cycle.end
    assert cycle.length == T_0 * T_mult**cycle.index
    assert cycle.start == restarts(T_0, T_mult, cycle.index + 1)[-1]


def test_the_warm_up_climbs_in_equal_parts_and_the_first_cycle_still_ends_in_time() -> None:
    sgdr = Sgdr(T_0=8, eta_max=0.4, warmup=3)
    rates = [learning_rate(step, sgdr) for step in range(16)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    # five steps of annealing are left: 0.2 (1 + cos(pi k / 5))
    assert rates[3:8] == pytest.approx([0.4, 0.361803, 0.261803, 0.138197, 0.038197], abs=1e-6)
    assert rates[8] == 0.4  # restarts have no warm-up
    assert rates[8:] == [learning_rate(step, Sgdr(T_0=8, eta_max=0.4)) for step in range(8)]


def test_each_restart_is_lower_where_asked_and_falls_to_the_same_bottom() -> None:
    sgdr = Sgdr(T_0=2, T_mult=2, eta_max=0.8, eta_min=0.1, eta_max_decay=0.5)
    assert [learning_rate(step, sgdr) for step in (0, 2, 6)] == [0.8, 0.4, 0.2]
    # halfway through a cycle: the mean of its top and eta_min
    assert [learning_rate(step, sgdr) for step in (1, 4, 10)] == pytest.approx([0.45, 0.25, 0.15])
    sgdr.refuse_low_restart(2)
    with pytest.raises(InvalidConfig, match="the restart of cycle 3 would be at 0.1, not above"):
        sgdr.refuse_low_restart(3)


@pytest.mark.parametrize(
    ("budget", "T_0", "T_mult", "cycles"),
    [(10, 10, 2, 1), (30, 10, 2, 2), (150, 10, 2, 4), (200, 40, 1, 5), (1, 1, 1, 1)],
)
def test_a_budget_that_ends_on_a_cycle_is_counted(
    budget: int, T_0: int, T_mult: int, cycles: int
) -> None:
    assert cycles_in(budget, T_0, T_mult) == cycles


@pytest.mark.parametrize(
    ("budget", "T_0", "T_mult", "nearest"),
    [(200, 10, 2, "150 or 310"), (29, 10, 1, "20 or 30"), (5, 10, 1, "10"), (0, 3, 1, "3")],
)
def test_a_budget_that_ends_inside_a_cycle_is_refused_with_the_nearest(
    budget: int, T_0: int, T_mult: int, nearest: str
) -> None:
    with pytest.raises(InvalidConfig, match=f"that end with one: {nearest}$"):
        cycles_in(budget, T_0, T_mult)


@pytest.mark.parametrize(
    "values",
    [
        {"T_0": 0},
        {"T_0": 1, "T_mult": 0},
        {"T_0": 1, "eta_max": 0.1, "eta_min": 0.1},
        {"T_0": 1, "eta_min": -0.1},
        {"T_0": 1, "eta_max": float("nan")},
        {"T_0": 1, "eta_max": float("inf")},
        {"T_0": 5, "warmup": 5},
        {"T_0": 5, "warmup": -1},
        {"T_0": 1, "eta_max_decay": 0.0},
        {"T_0": 1, "eta_max_decay": 1.1},
    ],
)
def test_a_schedule_that_cannot_be_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig):
        Sgdr(**values)
