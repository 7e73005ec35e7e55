"""What a process does that torchrun has started again, or that trains a branch."""

import argparse
from functools import partial
from pathlib import Path

import pytest

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.manifest import FileRef
from snapensemble.contracts.run import RUN_FILE, read_run
from snapensemble.trainer import torchrun
from snapensemble.trainer.run import branch, train
from snapensemble.trainer.torchrun import resumed_after_restart, run_branches
from tests.trainer.interruptions import killed, outcome, short
from tests.trainer.test_distributed import all_end_well


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


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three cycles, of which the later ones begin with the first one's weights."""
    out = tmp_path_factory.mktemp("star") / "run"
    return train(short(out, cycles=3, cycle_epochs=1, restart_from="first"))


def bits(run_dir: Path) -> dict[str, tuple[str, FileRef]]:
    """The hash of each snapshot's weights, averages included, and what it says of validation."""
    return {each.name: (each.sha256, each.val_logits) for each in read_run(run_dir).all_snapshots}


def branched(star: Path, out: Path, *, processes: int) -> None:
    flags = ("--branch", str(star), "--out", str(out), "--threads", "1")
    all_end_well(torchrun.main, *flags, processes=processes)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_branches_under_torchrun_have_the_bits_of_the_run_itself(
    star: Path, tmp_path: Path, processes: int
) -> None:
    branched(star, tmp_path / "branches", processes=processes)
    assert {each.name for each in (tmp_path / "branches").iterdir()} == {"cycle-01", "cycle-02"}
    expected = bits(star)
    for cycle in (1, 2):
        run = read_run(tmp_path / "branches" / f"cycle-{cycle:02d}")
        assert run.complete and [snapshot.cycle for snapshot in run.snapshots] == [cycle]
        assert (run.training.seed, run.training.device) == (0, "cpu")
        found = bits(tmp_path / "branches" / f"cycle-{cycle:02d}")
        assert found and found.items() <= expected.items()


def test_branches_that_torchrun_starts_anew_go_on_to_the_same_bits(
    star: Path, tmp_path: Path
) -> None:
    out = tmp_path / "branches"
    branch(star, 2, tmp_path / "whole")
    # Cycle 1 is finished, cycle 2 is not.
    branch(star, 1, out / "cycle-01")
    killed(partial(branch, star, 2, out / "cycle-02"), event=12)
    assert not read_run(out / "cycle-02").complete
    finished = outcome(out / "cycle-01")
    branched(star, out, processes=2)
    assert outcome(out / "cycle-01") == finished
    assert outcome(out / "cycle-02") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("flags", [{}, {"out": "branches", "cycle": 1}])
def test_torchrun_trains_all_branches_into_a_directory_and_not_one(
    star: Path, flags: dict[str, object]
) -> None:
    with pytest.raises(InvalidConfig, match="give --out, and no --cycle"):
        run_branches(argparse.Namespace(branch=star, **flags))
