"""Compiling where it pays."""

from pathlib import Path
from typing import Any

import pytest
import torch

import snapensemble.trainer.pace
from snapensemble.contracts.run import read_run
from snapensemble.trainer.budget import Pace
from snapensemble.trainer.config_file import run_config
from snapensemble.trainer.pace import COMPILING_S, compiling_pays
from snapensemble.trainer.run import train
from tests.trainer.interruptions import outcome, short

LONG = int(10 * COMPILING_S)  # epochs of a second


@pytest.mark.parametrize(
    ("epochs", "compiled", "expected"),
    [
        (LONG, 0.8, True),
        (LONG, 0.99, False),  # within the noise
        (LONG, 1.2, False),
        (LONG - 1, 0.1, False),  # over before it is earned back
    ],
)
def test_a_network_is_compiled_where_that_was_faster_and_the_run_is_long(
    epochs: int, compiled: float, expected: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compiling_pays(epochs, lambda way: compiled if way else 1.0) is expected
    assert capsys.readouterr().err.startswith("compiled" if expected else "not compiled")


def test_a_run_that_is_too_short_is_not_kept_waiting_for_a_compiler() -> None:
    tried = []
    compiling_pays(1, lambda way: tried.append(way) or 1.0)  # type: ignore[func-returns-value]
    assert tried == [False]


def test_a_compiler_that_does_not_work_is_no_reason_not_to_train(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def seconds(compiled: bool) -> float:
        if compiled:
            raise RuntimeError("omp.h: no such file")
        return 1.0

    assert not compiling_pays(LONG, seconds)
    assert "not compiled: RuntimeError: omp.h: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("pays", [False, True])
def test_what_was_decided_is_written_down_for_those_who_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pays: bool
) -> None:
    def pace(config: Any, *_: Any) -> Pace:
        seconds = 10 * COMPILING_S
        return Pace(epoch=seconds / 2 if config.compile == pays else seconds, cycle_end=0.0)

    monkeypatch.setattr(snapensemble.trainer.pace, "measured_pace", pace)
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    run_dir = train(short(tmp_path / "run", compile="auto"))
    assert run_config(run_dir).compile is pays
    assert read_run(run_dir).training.compiled is pays
    plain = train(short(tmp_path / "plain"))
    assert outcome(run_dir) == outcome(plain)  # timing has left no trace
