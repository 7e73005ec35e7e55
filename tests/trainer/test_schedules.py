import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.options import build, flag
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.schedule import Sgdr, cycles_of, learning_rate
from snapensemble.trainer.schedules import Constant, Hypergradient, Plateau, StepDecay


def config(**values: Any) -> TrainConfig:
    return build(TrainConfig, {"data": "digits", "out": Path("x"), **values})


def test_step_decay_falls_at_half_and_at_three_quarters_of_the_run() -> None:
    plan = config(schedule="step", cycles=4, cycle_epochs=5, lr_max=0.1).plan(10)
    rates = [plan.schedule.rate(step, []) for step in range(200)]
    assert rates[:100] == [0.1] * 100
    assert rates[100:150] == pytest.approx([0.01] * 50)
    assert rates[150:] == pytest.approx([0.001] * 50)


def test_step_decay_takes_shares_that_fall_into_the_same_epoch() -> None:
    plan = config(schedule="step", cycles=3, cycle_epochs=1, lr_steps=(0.5, 0.51)).plan(100)
    assert plan.schedule.rate(152, []) == pytest.approx(0.01)
    assert plan.schedule.rate(153, []) == pytest.approx(0.001)


def test_step_decay_falls_where_and_by_what_it_is_told() -> None:
    decay = StepDecay(eta=1.0, milestones=(3, 4, 6), factor=0.5)
    assert [decay.rate(step) for step in range(8)] == [1, 1, 1, 0.5, 0.25, 0.25, 0.125, 0.125]


def test_a_constant_rate_stays() -> None:
    assert {Constant(eta=0.3).rate(step, [9.0]) for step in range(1000)} == {0.3}


def test_plateau_falls_after_more_than_patience_epochs_without_a_better_nll() -> None:
    plateau = Plateau(eta=1.0, factor=0.1, patience=2, eta_min=0.05)
    history = [0.9, 0.8, 0.8, 0.81, 0.79999, 0.7, 0.7, 0.7, 0.7, 0.7]
    # 0.79999 is no improvement on 0.8: it lies less than 0.01 % below
    rates = [plateau.rate(0, history[:done]) for done in range(len(history) + 1)]
    assert rates == [1, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05]


@given(
    st.lists(st.floats(0.001, 10), max_size=60),
    st.integers(0, 4),
    st.sampled_from([0.1, 0.5]),
)
def test_plateau_does_what_torchs_does(nlls: list[float], patience: int, factor: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=factor, patience=patience, min_lr=0.001, eps=0
    )
    ours = Plateau(eta=0.1, eta_min=0.001, factor=factor, patience=patience)
    for done, nll in enumerate(nlls, start=1):
        torchs.step(nll)
        assert ours.rate(0, nlls[:done]) == optimizer.param_groups[0]["lr"]


def test_cosine_is_one_cycle_over_the_whole_budget() -> None:
    plan = config(schedule="cosine", cycles=4, cycle_epochs=3, lr_max=0.2, lr_min=0.01).plan(7)
    one = Sgdr(cycles=cycles_of([84]), eta_max=0.2, eta_min=0.01)
    assert [plan.schedule.rate(s, []) for s in range(84)] == [
        learning_rate(s, one) for s in range(84)
    ]
    assert [cycle.end for cycle in plan.cycles] == [21, 42, 63, 84]


@pytest.mark.parametrize("name", ["cosine", "step", "plateau", "constant", "hypergradient"])
def test_schedules_without_cycles_have_the_same_budget_and_as_many_snapshots(name: str) -> None:
    sgdr, other = config(cycles=5).plan(11), config(cycles=5, schedule=name).plan(11)
    assert other.cycles == sgdr.cycles
    assert (other.steps, other.epochs) == (5 * 10 * 11, 50)


def test_an_epoch_belongs_to_one_cycle() -> None:
    plan = config(cycles=3, cycle_epochs=2, t_mult=2).plan(5)
    assert [plan.cycle_of(epoch).index for epoch in range(14)] == [0] * 2 + [1] * 4 + [2] * 8


def test_the_first_cycle_may_have_a_length_of_its_own() -> None:
    plan = config(cycles=4, first_cycle_epochs=6, cycle_epochs=2, t_mult=1.5).plan(5)
    assert [cycle.end for cycle in plan.cycles] == [30, 40, 55, 80]  # 6, 2, 3 and 4.5 epochs
    assert [plan.schedule.rate(cycle.start, []) for cycle in plan.cycles] == [0.1] * 4
    with pytest.raises(ValueError, match="step 80 is in no cycle"):
        plan.schedule.rate(80, [])


@pytest.mark.parametrize(
    ("schedule", "name", "value"),
    [
        ("cosine", "t_mult", 2),
        ("step", "first_cycle_epochs", 20),
        ("step", "lr_min", 0.01),
        ("sgdr", "lr_steps", (0.3,)),
        ("constant", "lr_factor", 0.5),
        ("sgdr", "patience", 3),
        ("plateau", "hyper_lr", 0.1),
        ("hypergradient", "warmup_epochs", 1),
    ],
)
def test_a_setting_of_another_schedule_is_refused(schedule: str, name: str, value: float) -> None:
    with pytest.raises(InvalidConfig, match=rf"{flag(name)} belongs to the schedule .*, not to "):
        config(schedule=schedule, **{name: value})


@pytest.mark.parametrize(
    "values",
    [
        {"schedule": "linear"},
        {"cycles": 5, "warmup_epochs": 10},
        {"cycles": 5, "lr_max_decay": 0.5, "lr_min": 0.05},
        {"schedule": "step", "lr_steps": (0.5, 0.5)},
        {"schedule": "step", "lr_steps": (0.5, 1.0)},
        {"schedule": "step", "lr_factor": 1.0},
        {"schedule": "plateau", "lr_min": 0.1},
        {"schedule": "plateau", "patience": -1},
        {"schedule": "hypergradient", "lr_start": 0.0},
        {"schedule": "hypergradient", "lr_start": 0.2},
        {"schedule": "hypergradient", "hyper_lr": -1.0},
        {"schedule": "hypergradient", "hyper_rule": "multiplicative", "hyper_lr": 1.0},
        {"schedule": "hypergradient", "hyper_rule": "divisive"},
        {"t_mult": 10_000, "cycles": 10_000},
    ],
)
def test_a_schedule_that_cannot_work_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig):
        config(**values)


def test_the_multiplicative_rule_has_a_default_of_its_own() -> None:
    plan = config(schedule="hypergradient", hyper_rule="multiplicative").plan(1)
    assert plan.schedule == Hypergradient(
        eta_start=0.001, eta_max=0.1, beta=0.02, rule="multiplicative"
    )
    with warnings.catch_warnings():
        plan.schedule.rate(0, [])
