"""Several runs from one command, one after another."""

from pathlib import Path

import pytest

from snapensemble.cli import main
from snapensemble.contracts.cluster.options import RayOptions
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.run import read_run
from snapensemble.trainer.many.runs import seeds
from snapensemble.trainer.many.together import RunsFailed, train_all
from snapensemble.trainer.options.images import MAX_SEED
from snapensemble.trainer.run import train
from tests.trainer.interruptions import killed, outcome, short

ALONE = RayOptions()


def test_several_runs_are_those_of_their_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = seeds(short(tmp_path / "runs", seed=3), 2)
    found = train_all(runs, ALONE)
    assert found == [tmp_path / "runs" / "seed-3", tmp_path / "runs" / "seed-4"]
    for seed, run_dir in zip((3, 4), found, strict=True):
        assert outcome(run_dir) == outcome(train(short(tmp_path / f"one-{seed}", seed=seed)))
    line = f"pool them: snapensemble export {found[0]} {found[1]} --out BUNDLE_DIR"
    assert line in capsys.readouterr().err


def test_the_same_command_goes_on_with_what_is_not_finished(tmp_path: Path) -> None:
    config = short(tmp_path / "runs")
    events = killed(lambda: train(short(tmp_path / "one", seed=1)), 0)
    whole = outcome(tmp_path / "one")
    killed(lambda: train_all(seeds(config, 2), ALONE), events + 40)  # in the second run
    first = tmp_path / "runs" / "seed-0" / "run.json"
    assert read_run(first.parent).complete
    assert not read_run(tmp_path / "runs" / "seed-1").complete
    written = first.stat().st_mtime_ns
    train_all(seeds(config, 2), ALONE)
    assert outcome(tmp_path / "runs" / "seed-1") == whole
    assert first.stat().st_mtime_ns == written


def test_other_settings_are_refused_and_more_seeds_are_not(tmp_path: Path) -> None:
    seeds(short(tmp_path / "runs"), 1)
    with pytest.raises(InvalidConfig, match="cycle_epochs was 2, is 3"):
        seeds(short(tmp_path / "runs", cycle_epochs=3), 1)
    assert len(seeds(short(tmp_path / "runs", seed=7, threads=2), 5)) == 5
    with pytest.raises(InvalidConfig, match="the last seed would be"):
        seeds(short(tmp_path / "runs", seed=MAX_SEED), 2)


def test_somebody_elses_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InvalidConfig, match="holds mine.txt, and no runs.toml"):
        seeds(short(tmp_path), 2)


def test_a_start_that_was_killed_before_it_had_written_anything_is_none(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    killed(lambda: seeds(short(out), 2), 1)
    assert [each.suffix for each in out.iterdir()] == [".tmp"]
    assert len(seeds(short(out), 2)) == 2


def test_a_run_that_cannot_be_trained_does_not_stop_the_others(tmp_path: Path) -> None:
    runs = seeds(short(tmp_path / "runs"), 2)
    runs[0].out.mkdir()
    (runs[0].out / "mine.txt").touch()
    with pytest.raises(
        RunsFailed, match="1 of 2 runs could not be trained:\n.*seed-0 is not empty"
    ):
        train_all(runs, ALONE)
    assert read_run(runs[1].out).complete


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "digits", "--out", "x", "--ray", "auto"], "--ray trains several runs"),
        (["--branch", "x", "--cycle", "1", "--out", "y", "--ray", "auto"], "--ray trains several"),
        (["--data", "digits", "--out", "x", "--runs", "2", "--ray-cpus", "1"], "needs --ray"),
        (["--resume", "x", "--runs", "2"], "--runs cannot be changed"),
        (["--data", "digits", "--out", "x", "--runs", "0"], "at least 1"),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        assert main(["train", *flags]) == 2
    except SystemExit as stopped:
        assert stopped.code == 2
    assert message in capsys.readouterr().err
