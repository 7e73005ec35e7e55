"""The first cycle of a budget that divides itself, whose end decides about the others."""

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.run import RunManifest, Trial, read_run
from snapensemble.export.candidates import pooled
from snapensemble.trainer import budget
from snapensemble.trainer.budget import first_cycle_decides, has_fitted
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.run import resume, train
from tests.trainer.interruptions import killed, outcome, short

pytestmark = pytest.mark.usefixtures("signal_handlers")

BUDGET: dict[str, Any] = {"cycles": None, "cycle_epochs": None, "epochs": 5}
# The same budget as cycles that are asked for, by what the trial says of the first one.
ASKED: dict[Trial, dict[str, Any]] = {
    "fitted": {"cycles": 5, "cycle_epochs": 1},
    "not fitted": {"cycles": 2, "first_cycle_epochs": 1, "cycle_epochs": 4},
}
VERDICTS = pytest.mark.parametrize("verdict", ASKED)
ENDS: dict[Trial, tuple[int, ...]] = {"fitted": (12, 24, 36, 48, 60), "not fitted": (12, 60)}


@pytest.fixture(autouse=True)
def _cycles_of_an_epoch_are_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MIN_EPOCHS", 1)
    monkeypatch.setattr(budget, "MIN_UPDATES", 1)


def let_it(verdict: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each first cycle judged like this."""
    monkeypatch.setattr(budget, "FITTED", {"fitted": 1e9, "not fitted": 0.0}[verdict])


def without_plan(run: RunManifest) -> RunManifest:
    """The manifest but for where its plan came from."""
    schedule = run.schedule.model_copy(update={"trial": None, "T_1": None, "T_0": 1})
    return run.model_copy(update={"schedule": schedule, "config": None})


@VERDICTS
def test_a_budget_goes_on_as_a_run_that_was_asked_for_these_cycles(
    verdict: Trial,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    let_it(verdict, monkeypatch)
    tried = train(short(tmp_path / "tried", **BUDGET))
    said = capsys.readouterr().err
    asked = train(short(tmp_path / "asked", **ASKED[verdict]))
    assert outcome(tried) == outcome(asked)
    assert without_plan(read_run(tried)) == without_plan(read_run(asked))
    assert read_run(tried).schedule.cycle_ends == ENDS[verdict]
    assert (read_run(tried).schedule.trial, read_run(asked).schedule.trial) == (verdict, None)
    assert ("restarts as planned" in said, "4 epochs left are one cycle" in said) == (
        verdict == "fitted",
        verdict == "not fitted",
    )
    assert "images, so" not in capsys.readouterr().err  # nobody tries cycles that are asked for


@VERDICTS
def test_killed_at_any_moment_the_same_is_decided_once(
    verdict: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_it(verdict, monkeypatch)
    whole = train(short(tmp_path / "whole", **BUDGET))
    begin = partial(train, short(tmp_path / "counted", **BUDGET))
    # Around the end of the first cycle, where its files and run.json are written, and later.
    events = [*range(46, 62, 4), *random.Random(0).sample(range(62, killed(begin, -1)), 2)]
    met = set()
    for event in events:
        run_dir = tmp_path / f"killed-{event}"
        killed(partial(train, short(run_dir, **BUDGET)), event)
        met.add(read_run(run_dir).schedule.trial)
        resume(run_dir)
        assert outcome(run_dir) == outcome(whole), f"killed at event {event}"
        assert read_run(run_dir) == read_run(whole)
    assert met == {"open", verdict}


def test_a_run_that_became_two_cycles_gets_more_like_the_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_it("not fitted", monkeypatch)
    run_dir = train(short(tmp_path / "run", **BUDGET))
    resume(run_dir, more_cycles=1)
    assert read_run(run_dir).schedule.cycle_ends == (12, 60, 108)
    assert read_run(run_dir).extended_after == (2,)


@VERDICTS
def test_the_first_cycle_is_averaged_with_later_ones_only_if_it_had_fitted(
    verdict: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_it(verdict, monkeypatch)
    monkeypatch.setattr("snapensemble.contracts.run.MIN_EPOCHS", 1)
    monkeypatch.setattr("snapensemble.contracts.run.MIN_UPDATES", 1)
    pool = pooled([train(short(tmp_path / "run", **BUDGET))])
    last = [pays for pays, kind in zip(pool.pays_S, pool.kinds_S, strict=True) if kind == "last"]
    assert last == ([True] * 5 if verdict == "fitted" else [False, True])


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


def test_one_cycle_is_not_tried(tmp_path: Path) -> None:
    assert (
        read_run(train(short(tmp_path / "run", **{**BUDGET, "epochs": 2}))).schedule.trial is None
    )


@given(st.floats(0, 50), st.floats(1e-3, 50))
def test_knowing_the_training_images_better_never_speaks_against_restarts(
    train_nll: float, val_nll: float
) -> None:
    assert has_fitted(0, val_nll) and not has_fitted(val_nll, val_nll)
    if has_fitted(train_nll, val_nll):
        assert has_fitted(train_nll / 2, val_nll) and has_fitted(train_nll, val_nll * 2)
