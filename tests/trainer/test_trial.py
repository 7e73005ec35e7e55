"""The first cycle of a budget that divides itself, whose end decides about the others."""

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.run import Trial, Weights, read_run
from snapensemble.export.candidates import pooled
from snapensemble.trainer import budget
from snapensemble.trainer.budget import first_cycle_decides, has_fitted
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.recording.snapshots import Kept
from snapensemble.trainer.run import resume, train
from snapensemble.trainer.validation import Validation
from tests.trainer.interruptions import killed, outcome, short

pytestmark = pytest.mark.usefixtures("signal_handlers")

BUDGET: dict[str, Any] = {
    "cycles": None,
    "cycle_epochs": None,
    "epochs": 6,
    "checkpoint_minutes": 60.0,
}
KILLED: dict[str, Any] = BUDGET | {"checkpoint_minutes": 0.0}  # goes on from any step
ONE: dict[str, Any] = {"cycles": 1, "cycle_epochs": 6, "checkpoint_minutes": 60.0}
VERDICTS = pytest.mark.parametrize("verdict", ["fitted", "not fitted"])
ENDS: dict[Trial, tuple[int, ...]] = {"fitted": (12, 24, 36, 48, 60, 72), "not fitted": (72,)}


@pytest.fixture(autouse=True)
def _cycles_of_an_epoch_are_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MIN_EPOCHS", 1)
    monkeypatch.setattr(budget, "MIN_UPDATES", 1)


def let_it(verdict: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each first cycle judged like this."""
    monkeypatch.setattr(budget, "FITTED", {"fitted": 1e9, "not fitted": 0.0}[verdict])


def rates(run_dir: Path) -> list[float]:
    return [line["lr"] for line in outcome(run_dir)[1] if "lr" in line]


def test_a_budget_whose_images_are_not_fitted_is_a_cosine_run_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    let_it("not fitted", monkeypatch)
    tried = train(short(tmp_path / "tried", **BUDGET))
    assert "has not fitted its images (less than 0% would)" in capsys.readouterr().err
    asked = train(short(tmp_path / "asked", **ONE))
    assert outcome(tried) == outcome(asked)
    assert "fitted its images" not in capsys.readouterr().err  # what is asked for is not tried
    assert (read_run(tried).schedule.trial, read_run(asked).schedule.trial) == ("not fitted", None)
    assert read_run(tried).schedule.cycle_ends == ENDS["not fitted"]


def test_a_budget_whose_images_are_fitted_leaves_the_cosine_run_and_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    let_it("fitted", monkeypatch)
    tried = train(short(tmp_path / "tried", **BUDGET))
    assert "so the rate restarts: 5 cycles of 1 epochs follow" in capsys.readouterr().err
    cosine, each = rates(train(short(tmp_path / "cosine", **ONE))), 12
    found = rates(tried)
    assert found[:each] == cosine[:each] and found[each - 1] > 0.9 * found[0]
    assert all(found[start] == found[0] for start in range(each, 72, each))
    assert found[each : 2 * each] == found[2 * each : 3 * each]
    schedule = read_run(tried).schedule
    assert schedule.cycle_ends == ENDS["fitted"]
    assert (schedule.trial, schedule.falls_over) == ("fitted", 72)


def test_what_a_cut_cycle_leaves_has_no_average_over_a_tail_that_it_never_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_it("fitted", monkeypatch)
    run = read_run(train(short(tmp_path / "run", **BUDGET)))
    kinds = [[each.weights for each in run.averages if each.cycle == cycle] for cycle in (0, 1)]
    assert kinds == [["ema"], ["ema", "tail"]]


def test_the_average_that_a_trial_asks_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_it("fitted", monkeypatch)
    measured: list[tuple[str, int]] = []
    real = Validation.averaged

    def counted(self: Validation, weights: Weights, *others: Any) -> Kept:
        measured.append((weights, others[2]))
        return real(self, weights, *others)

    monkeypatch.setattr(Validation, "averaged", counted)
    run_dir = train(short(tmp_path / "run", **BUDGET))
    assert [each for each in measured if each[1] == 0] == [("ema", 0)]
    assert len(measured) == len(read_run(run_dir).averages)


@pytest.mark.slow
@VERDICTS
def test_killed_at_any_moment_the_same_is_decided_once(
    verdict: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_it(verdict, monkeypatch)
    whole = train(short(tmp_path / "whole", **KILLED))
    begin = partial(train, short(tmp_path / "counted", **KILLED))
    # Around the trial, where files and run.json are written, and later.
    events = [*range(36, 60, 6), *random.Random(0).sample(range(60, killed(begin, -1)), 1)]
    met = set()
    for event in events:
        run_dir = tmp_path / f"killed-{event}"
        killed(partial(train, short(run_dir, **KILLED)), event)
        met.add(read_run(run_dir).schedule.trial)
        resume(run_dir)
        assert outcome(run_dir) == outcome(whole), f"killed at event {event}"
        assert read_run(run_dir) == read_run(whole)
    assert met == {"open", verdict}


def test_a_run_that_restarts_gets_more_cycles_like_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_it("fitted", monkeypatch)
    run_dir = train(short(tmp_path / "run", **BUDGET))
    resume(run_dir, more_cycles=1)
    assert read_run(run_dir).schedule.cycle_ends == (*ENDS["fitted"], 84)
    assert read_run(run_dir).extended_after == (6,)


def test_a_run_that_got_more_cycles_before_its_trial_has_those(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_it("fitted", monkeypatch)
    run_dir = tmp_path / "run"
    killed(partial(train, short(run_dir, **KILLED)), 30)
    assert read_run(run_dir).schedule.trial == "open"
    resume(run_dir, more_cycles=1)
    assert read_run(run_dir).schedule.cycle_ends == (72, 144)
    assert read_run(run_dir).schedule.trial is None and read_run(run_dir).complete
    assert resume(run_dir, more_cycles=1) == run_dir
    assert read_run(run_dir).schedule.cycle_ends == (72, 144, 216)


@pytest.mark.parametrize("setting", [{"warmup_epochs": 3}, {"lr_max_decay": 0.5, "lr_min": 0.05}])
def test_where_no_restart_would_be_possible_none_is_tried(
    setting: dict[str, Any], tmp_path: Path
) -> None:
    run = read_run(train(short(tmp_path / "run", **BUDGET, **setting)))
    assert run.schedule.trial is None and run.complete


@VERDICTS
def test_a_cut_cycle_is_not_averaged_with_the_others(
    verdict: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_it(verdict, monkeypatch)
    monkeypatch.setattr("snapensemble.contracts.run.MIN_EPOCHS", 1)
    monkeypatch.setattr("snapensemble.contracts.run.MIN_UPDATES", 1)
    pool = pooled([train(short(tmp_path / "run", **BUDGET))])
    last = [pays for pays, kind in zip(pool.pays_S, pool.kinds_S, strict=True) if kind == "last"]
    assert last == ([False, *[True] * 5] if verdict == "fitted" else [True])


@pytest.mark.parametrize(
    ("settings", "decides"),
    [
        ({}, True),
        ({"epochs": 300}, True),
        ({"minutes": 10}, True),
        ({"minutes": 10, "cycles": 4}, False),
        ({"cycles": 4}, False),
        ({"epochs": 200, "cycle_epochs": 40}, False),
        ({"epochs": 200, "schedule": "cosine"}, False),
        ({"minutes": 10, "schedule": "cosine"}, False),
        ({"epochs": 200, "restart_from": "first"}, False),
    ],
)
def test_only_cycles_that_nobody_asked_for_are_tried(
    settings: dict[str, Any], decides: bool
) -> None:
    config = TrainConfig(data="digits", out=Path("run"), **settings)
    assert first_cycle_decides(config) == decides


def test_a_budget_too_short_for_restarts_is_not_tried(tmp_path: Path) -> None:
    run = read_run(train(short(tmp_path / "run", **{**BUDGET, "epochs": 2})))
    assert (run.schedule.trial, run.schedule.cycle_ends) == (None, (24,))


@given(st.floats(0, 50), st.floats(1e-3, 50))
def test_knowing_the_training_images_better_never_speaks_against_restarts(
    train_nll: float, val_nll: float
) -> None:
    assert has_fitted(0, val_nll) and not has_fitted(val_nll, val_nll)
    if has_fitted(train_nll, val_nll):
        assert has_fitted(train_nll / 2, val_nll) and has_fitted(train_nll, val_nll * 2)
