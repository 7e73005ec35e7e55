"""`snapensemble train --runs --ray` on a cluster of two nodes."""

import signal
from pathlib import Path

from snapensemble.contracts.run import read_run
from snapensemble.trainer.many.runs import seeds
from snapensemble.trainer.run import train
from tests.ray.conftest import TwoNodes, ended, run, started, wait_while_running
from tests.trainer.interruptions import outcome, short

LONG = {"cycle_epochs": 12}


def flags(out: Path, **changes: object) -> list[object]:
    """The settings of `short` as flags."""
    found: list[object] = ["--out", out]
    for name, value in (
        short(out, **changes).model_dump(exclude_unset=True, exclude={"out"}).items()
    ):
        word = name.replace("_", "-")
        found += (
            [f"--{'' if value else 'no-'}{word}"]
            if isinstance(value, bool)
            else [f"--{word}", value]
        )
    return found


def test_runs_whose_node_is_killed_end_like_those_made_one_by_one(
    mortal_cluster: TwoNodes, tmp_path: Path
) -> None:
    alone = seeds(short(tmp_path / "alone", **LONG), 2)
    out = tmp_path / "together"
    command = ["train", *flags(out, **LONG), "--runs", 2, "--ray", mortal_cluster.address]
    process = started(*command)
    checkpoints = [out / f"seed-{seed}" / "checkpoint.pt" for seed in (0, 1)]
    wait_while_running(process, lambda: all(map(Path.exists, checkpoints)))
    mortal_cluster.remove_node()
    assert process.poll() is None
    assert not all(read_run(out / f"seed-{seed}").complete for seed in (0, 1))
    for each in alone:
        each.train()
    said = ended(process)
    runs = [str(out / "seed-0"), str(out / "seed-1")]
    assert said.splitlines()[-2:] == runs
    assert f"pool them: snapensemble export {' '.join(runs)} --out" in said
    for each in alone:
        assert outcome(out / each.out.name) == outcome(each.out)


def test_ctrl_c_ends_every_run_after_a_step_and_the_same_command_goes_on(
    cluster: TwoNodes, tmp_path: Path
) -> None:
    out, changes = tmp_path / "runs", {"cycle_epochs": 12, "checkpoint_minutes": 60.0}
    command = ["train", *flags(out, **changes), "--runs", 2, "--ray", cluster.address]
    process = started(*command)
    lines = [out / f"seed-{seed}" / "metrics.jsonl" for seed in (0, 1)]
    wait_while_running(
        process, lambda: all(each.exists() and each.stat().st_size for each in lines)
    )
    process.send_signal(signal.SIGINT)
    assert "the same command goes on with the others" in ended(process, 130)
    for file in lines:
        assert (file.with_name("checkpoint.pt")).exists(), "which it has only at the end of a run"
    run(*command)
    assert outcome(out / "seed-0") == outcome(train(short(tmp_path / "one", **changes)))


def test_the_cycles_of_a_star_are_what_the_run_itself_has(
    cluster: TwoNodes, tmp_path: Path
) -> None:
    star = flags(tmp_path / "star", cycles=3, restart_from="first")
    run("train", *star)
    out = tmp_path / "branches"
    said = run(
        *("train", "--branch", tmp_path / "star", "--out", out, "--threads", 1),
        *("--ray", cluster.address),
    )
    assert said.splitlines()[-2:] == [str(out / "cycle-01"), str(out / "cycle-02")]
    whole = {each.file: each.sha256 for each in read_run(tmp_path / "star").snapshots}
    for cycle in (1, 2):
        (snapshot,) = read_run(out / f"cycle-{cycle:02d}").snapshots
        assert whole[snapshot.file] == snapshot.sha256
    assert f"pool them: snapensemble export {tmp_path / 'star'} {out / 'cycle-01'}" in said


def test_a_run_that_cannot_be_trained_does_not_stop_the_others(
    cluster: TwoNodes, tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    (out / "seed-1").mkdir(parents=True)
    command = ["train", *flags(out), "--runs", 2, "--ray", cluster.address]
    said = run(*command, code=2)
    assert f"{out} holds seed-1, and no runs.toml" in said
    (out / "seed-1").rmdir()
    (out / "runs.toml").touch()
    said = run(*command, code=2)
    assert "was begun with other settings: data was None, is digits" in said
    (out / "runs.toml").unlink()
    seeds(short(out), 2)  # notes the settings
    (out / "seed-1").mkdir()
    (out / "seed-1" / "mine.txt").touch()
    said = run(*command, code=2)
    assert "1 of 2 runs could not be trained" in said and "seed-1 is not empty" in said
    assert read_run(out / "seed-0").complete
