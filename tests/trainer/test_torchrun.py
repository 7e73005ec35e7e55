"""What a process does that torchrun has started again."""

import argparse
from pathlib import Path

import pytest

from snapensemble.contracts.run import RUN_FILE
from snapensemble.trainer.torchrun import resumed_after_restart


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A directory in which a run has begun."""
    (tmp_path / RUN_FILE).touch()
    return tmp_path


def restarted(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(times))


def test_a_first_start_begins_a_run(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restarted(monkeypatch, 0)
    args = argparse.Namespace(data="digits", out=str(run_dir))
    assert resumed_after_restart(args) is args


def test_a_restart_goes_on_with_the_run_and_with_what_may_change(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restarted(monkeypatch, 1)
    args = argparse.Namespace(data="digits", out=str(run_dir), cycles="3", threads="1")
    again = resumed_after_restart(args)
    assert vars(again) == {"resume": run_dir, "data": "digits", "threads": "1"}


def test_a_restart_finds_the_run_that_a_file_names(
    run_dir: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    restarted(monkeypatch, 2)
    file = tmp_path_factory.mktemp("settings") / "settings.toml"
    file.write_text(f'data = "digits"\nout = "{run_dir}"\n')
    again = resumed_after_restart(argparse.Namespace(config=file))
    assert vars(again) == {"resume": run_dir}


def test_a_restart_adds_no_cycles_again(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = argparse.Namespace(resume=run_dir, more_cycles=2, device="cpu")
    restarted(monkeypatch, 0)
    assert resumed_after_restart(args) is args
    restarted(monkeypatch, 1)
    assert vars(resumed_after_restart(args)) == {"resume": run_dir, "device": "cpu"}


def test_a_restart_before_the_run_had_begun_begins_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restarted(monkeypatch, 1)
    args = argparse.Namespace(data="digits", out=str(tmp_path / "run"))
    assert resumed_after_restart(args) is args
