"""Cycles that a run gets after it has begun, or after it was finished."""

import json
import random
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from snapensemble.cli import main
from snapensemble.contracts.errors import InvalidConfig, InvalidManifest
from snapensemble.contracts.run import RUN_FILE, read_run, write_run
from snapensemble.report.run.page import write_report
from snapensemble.trainer.recording.checkpoint import CHECKPOINT_FILE
from snapensemble.trainer.recording.run_directory import locked
from snapensemble.trainer.run import branch, resume, train
from tests.trainer.interruptions import killed, outcome, short

pytestmark = pytest.mark.usefixtures("signal_handlers")


@pytest.fixture(scope="module")
def two_cycles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two cycles; tests work on copies of it."""
    return train(short(tmp_path_factory.mktemp("finished") / "run"))


@pytest.fixture(scope="module")
def extended(two_cycles: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """What the run leaves after a third cycle that nothing interrupted."""
    copy = shutil.copytree(two_cycles, tmp_path_factory.mktemp("extended") / "run")
    return outcome(resume(copy, more_cycles=1))


@pytest.fixture
def finished_run(two_cycles: Path, tmp_path: Path) -> Path:
    return shutil.copytree(two_cycles, tmp_path / "run")


def test_a_run_that_is_not_finished_goes_on_as_if_it_had_always_had_the_cycles(
    tmp_path: Path,
) -> None:
    growth: dict[str, Any] = {"first_cycle_epochs": 3, "cycle_epochs": 1, "t_mult": 1.5}
    always = train(short(tmp_path / "always", **growth, cycles=3))
    assert read_run(always).schedule.cycle_ends == (36, 48, 72)  # 3, 1 and 1.5 epochs of 12 steps
    expected = outcome(always)
    for event in random.Random(0).sample(range(10, 140), 3):
        run_dir = tmp_path / f"killed-{event}"
        killed(partial(train, short(run_dir, **growth)), event)
        assert not read_run(run_dir).complete
        resume(run_dir, more_cycles=1)
        assert outcome(run_dir) == expected, f"killed at event {event}"
        assert read_run(run_dir).schedule == read_run(always).schedule


def test_a_finished_run_without_momentum_ends_as_if_it_had_always_had_the_cycles(
    tmp_path: Path,
) -> None:
    run_dir = train(short(tmp_path / "run", momentum=0.0, epochs=4, cycles=None))
    resume(run_dir, more_cycles=1)
    always = train(short(tmp_path / "a", momentum=0.0, cycles=3))
    (snapshots, *rest), (expected, *others) = outcome(run_dir), outcome(always)
    # The soup that ended the run before it was extended stays.
    assert [s for s in snapshots if s.name != "cycle-01-soup-2"] == list(expected)
    assert rest == others
    assert read_run(run_dir).extended_after == (2,)


def test_a_finished_run_goes_on_from_its_last_weights_with_momentum_zero(
    tmp_path: Path, extended: tuple[Any, ...]
) -> None:
    always = outcome(train(short(tmp_path / "always", cycles=3)))
    expected, found = (
        [line["loss"] for line in o[1] if "loss" in line] for o in (always, extended)
    )
    assert found[:49] == expected[:49]  # the first loss of the cycle is that of the last weights
    assert found[49] != expected[49]  # the first update had no momentum


def test_a_finished_run_keeps_its_snapshots_and_gets_another(
    finished_run: Path, two_cycles: Path, extended: tuple[Any, ...]
) -> None:
    resume(finished_run, more_cycles=1)
    before, after = outcome(two_cycles), outcome(finished_run)
    assert after == extended
    assert set(after[0]) > set(before[0]) and after[1][: len(before[1])] == before[1]
    assert after[2] == before[2]  # no file more or less, no checkpoint
    for snapshot in before[0]:
        for file in (snapshot.file, snapshot.val_logits.file):
            assert (finished_run / file).read_bytes() == (two_cycles / file).read_bytes()
    steps = [line for line in after[1] if "loss" in line]
    assert [line["step"] for line in steps] == list(range(72))
    assert steps[48] | {"loss": 0} == {"step": 48, "epoch": 4, "cycle": 2, "lr": 0.1, "loss": 0}
    config = "config.toml"
    assert (finished_run / config).read_bytes() == (two_cycles / config).read_bytes()


@pytest.mark.parametrize("minutes", [0.0, pytest.param(60.0, marks=pytest.mark.slow)])
def test_an_extension_killed_at_any_moment_goes_on_to_the_same_bits(
    tmp_path: Path, two_cycles: Path, extended: tuple[Any, ...], minutes: float
) -> None:
    def extend(run_dir: Path) -> None:
        resume(run_dir, more_cycles=1, checkpoint_minutes=minutes)

    events = killed(lambda: extend(shutil.copytree(two_cycles, tmp_path / "count")), 0)
    assert outcome(tmp_path / "count") == extended
    first = range(1, 4)  # around the moment when run.json gets the plan
    kept = []
    for event in [*first, *random.Random(0).sample(range(4, events + 1), 3)]:
        run_dir = shutil.copytree(two_cycles, tmp_path / f"killed-{event}")
        killed(partial(extend, run_dir), event)
        kept.append(read_run(run_dir).schedule.cycles)
        if kept[-1] == 2:
            resume(run_dir, more_cycles=1)
        resume(run_dir)
        assert outcome(run_dir) == extended, f"killed at event {event} of {events}"
    assert kept[0] == 2 and set(kept[2:]) == {3}


def test_a_checkpoint_that_a_killed_run_left_when_it_was_finished_is_not_gone_on_from(
    tmp_path: Path, extended: tuple[Any, ...]
) -> None:
    events = killed(lambda: train(short(tmp_path / "count")), 0)
    run_dir = tmp_path / "run"
    killed(lambda: train(short(run_dir)), events)
    assert read_run(run_dir).complete and (run_dir / CHECKPOINT_FILE).exists()
    resume(run_dir, more_cycles=1)
    assert outcome(run_dir) == extended


def test_a_run_is_extended_again_and_again(finished_run: Path) -> None:
    resume(finished_run, more_cycles=1)
    killed(lambda: resume(finished_run, more_cycles=1), 30)
    resume(finished_run, more_cycles=1)
    run = read_run(finished_run)
    assert run.complete and len(run.snapshots) == 5 and run.extended_after == (2, 3)


def test_a_damaged_snapshot_is_said_before_the_plan_changes(finished_run: Path) -> None:
    file = finished_run / "snapshots" / "cycle-01.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    before = (finished_run / RUN_FILE).read_bytes()
    with pytest.raises(InvalidManifest, match=r"cycle-01\.safetensors: sha256 is"):
        resume(finished_run, more_cycles=1)
    assert (finished_run / RUN_FILE).read_bytes() == before


def test_two_processes_may_not_extend_one_run(finished_run: Path) -> None:
    with locked(finished_run), pytest.raises(InvalidConfig, match="another process is training"):
        resume(finished_run, more_cycles=1)
    assert read_run(finished_run).schedule.cycles == 2


@pytest.mark.parametrize("schedule", ["cosine", "step", "plateau", "constant", "hypergradient"])
def test_a_schedule_that_does_not_restart_gets_no_more_cycles(
    tmp_path: Path, schedule: str
) -> None:
    run_dir = train(short(tmp_path / "run", schedule=schedule, cycles=1, cycle_epochs=1))
    before = (run_dir / RUN_FILE).read_bytes()
    with pytest.raises(InvalidConfig, match=f"the rate of {schedule} has come to its end"):
        resume(run_dir, more_cycles=1)
    assert (run_dir / RUN_FILE).read_bytes() == before


def test_a_restart_below_the_lowest_rate_is_refused(tmp_path: Path) -> None:
    run_dir = train(short(tmp_path / "run", lr_max_decay=0.5, lr_min=0.03, cycle_epochs=1))
    with pytest.raises(InvalidConfig, match="the restart of cycle 2 would be at 0.025, not above"):
        resume(run_dir, more_cycles=1)


def test_a_run_of_the_version_before_is_read_drawn_and_extended(
    finished_run: Path, extended: tuple[Any, ...]
) -> None:
    content = json.loads((finished_run / RUN_FILE).read_text())
    del content["extended_after"], content["schedule"]["cycle_ends"], content["schedule"]["T_1"]
    content["schedule"]["T_mult"] = 1
    (finished_run / RUN_FILE).write_text(json.dumps(content))
    assert "Schedule sgdr, 2 cycles;" in " ".join(_page(finished_run))
    resume(finished_run, more_cycles=1)
    assert outcome(finished_run) == extended
    assert read_run(finished_run).schedule.cycle_ends == (24, 48, 72)
    assert "Schedule sgdr, 3 cycles of 2 epochs;" in " ".join(_page(finished_run))


def test_a_plan_that_does_not_go_on_as_the_one_before_is_refused(finished_run: Path) -> None:
    run = read_run(finished_run)
    schedule = run.schedule.model_copy(update={"cycle_ends": (12, 48)})
    write_run(finished_run, run.model_copy(update={"schedule": schedule}))
    with pytest.raises(InvalidManifest, match="this version understands the run's settings"):
        resume(finished_run, more_cycles=1)


def test_the_command_line_adds_cycles_to_a_run_that_it_is_told(
    finished_run: Path, extended: tuple[Any, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--resume", str(finished_run), "--more-cycles", "1"]) == 0
    said = capsys.readouterr()
    assert "sgdr: 3 cycles of 2 epochs, 72 steps" in said.err
    assert "going on after step 48\n" in said.err  # no step is done again
    assert said.out.splitlines()[2].startswith("cycle 2") and outcome(finished_run) == extended
    assert main(["train", "--more-cycles", "1", "--data", "digits", "--out", "x"]) == 2
    assert "name it by --resume RUN_DIR" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(finished_run), "--more-cycles", "0"])
    assert "expected a whole number, at least 1, got '0'" in capsys.readouterr().err


def _page(run_dir: Path) -> list[str]:
    write_report(run_dir, run_dir.parent / "report")
    return (run_dir.parent / "report" / "index.html").read_text().split()


def test_a_branch_gets_no_more_cycles_since_they_are_those_of_its_run(tmp_path: Path) -> None:
    star = train(short(tmp_path / "star", restart_from="first"))
    one = branch(star, 1, tmp_path / "one")
    before = read_run(one)
    with pytest.raises(InvalidConfig, match="one is one cycle of another run: give --more-cycles"):
        resume(one, more_cycles=1)
    assert read_run(one) == before
