import errno
import os
import random
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from snapensemble.cli import main
from snapensemble.contracts.errors import InvalidConfig, InvalidData, InvalidManifest, WriteFailed
from snapensemble.contracts.process import SIGNALS, Stopped
from snapensemble.contracts.run import read_run, write_run
from snapensemble.trainer.data.dataset import load_dataset
from snapensemble.trainer.models.layers import Backbone
from snapensemble.trainer.models.registry import MODELS, Network
from snapensemble.trainer.recording.checkpoint import CHECKPOINT_FILE, State, load_checkpoint
from snapensemble.trainer.recording.observers import MetricsFile
from snapensemble.trainer.recording.run_directory import locked
from snapensemble.trainer.run import resume, train
from snapensemble.trainer.validation import predict_logits
from tests.forks import forked
from tests.forks import run as run_command
from tests.trainer.interruptions import killed, outcome, short

pytestmark = pytest.mark.usefixtures("signal_handlers")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    return outcome(train(short(tmp_path_factory.mktemp("whole") / "run")))


def test_a_run_killed_at_any_moment_goes_on_to_the_same_bits(
    tmp_path: Path, uninterrupted: tuple[Any, ...]
) -> None:
    events = killed(lambda: train(short(tmp_path / "count")), 0)
    assert events > 48 * 3  # steps, and two events for the checkpoint of each
    assert outcome(tmp_path / "count") == uninterrupted
    first = 10  # before it the run has no manifest yet, and nothing is lost
    for event in random.Random(0).sample(range(first, events + 1), 5):
        run_dir = tmp_path / f"killed-{event}"
        killed(partial(train, short(run_dir)), event)
        resume(run_dir)
        assert outcome(run_dir) == uninterrupted, f"killed at event {event} of {events}"


def test_a_run_killed_several_times_goes_on_to_the_same_bits(
    tmp_path: Path, uninterrupted: tuple[Any, ...]
) -> None:
    run_dir = tmp_path / "run"
    killed(lambda: train(short(run_dir)), 40)
    for event in (2, 31, 55):
        killed(lambda: resume(run_dir), event)
    resume(run_dir)
    assert outcome(run_dir) == uninterrupted


@pytest.mark.slow
def test_a_start_that_was_killed_before_it_had_a_manifest_is_no_run_in_the_way(
    tmp_path: Path, uninterrupted: tuple[Any, ...]
) -> None:
    for event in range(1, 10):
        run_dir = tmp_path / str(event)
        killed(partial(train, short(run_dir)), event)
        if not (run_dir / "run.json").exists():
            train(short(run_dir))
            assert outcome(run_dir) == uninterrupted
    assert event == 9 and (run_dir / "run.json").exists()  # the last one was late enough


def test_what_somebody_keeps_under_a_runs_names_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "mine.safetensors").touch()
    with pytest.raises(InvalidConfig, match="is not empty"):
        train(short(tmp_path))
    assert (tmp_path / "snapshots" / "mine.safetensors").exists()


def test_a_network_that_draws_while_it_trains_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network(lambda _: Backbone([nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Dropout(0.5)], 8))
    monkeypatch.setitem(MODELS, "dropout", network)
    settings = {"model": "dropout", "cycles": 1}
    torch.manual_seed(1)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    killed(lambda: train(short(tmp_path / "killed", **settings)), 30)
    train(short(tmp_path / "whole", **settings))
    assert torch.rand(1) == drawn  # the caller's random state is as it was
    resume(tmp_path / "killed")
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.parametrize(
    "schedule", ["plateau", pytest.param("hypergradient", marks=pytest.mark.slow)]
)
def test_a_schedule_with_a_memory_goes_on_to_the_same_bits(tmp_path: Path, schedule: str) -> None:
    settings: dict[str, Any] = {"schedule": schedule, "cycles": 3, "cycle_epochs": 2}
    if schedule == "plateau":
        settings |= {"patience": 0, "lr_max": 0.5}
    train(short(tmp_path / "whole", **settings))
    rates = {line["lr"] for line in outcome(tmp_path / "whole")[1] if "lr" in line}
    assert len(rates) > 1  # it has something to remember
    killed(lambda: train(short(tmp_path / "killed", **settings)), 190)
    resume(tmp_path / "killed")
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_old_checkpoints_lead_to_the_same_bits(
    tmp_path: Path, uninterrupted: tuple[Any, ...]
) -> None:
    # Without one in all the run: from the beginning, over snapshots that are there already.
    killed(lambda: train(short(tmp_path / "run", checkpoint_minutes=60)), 50)
    assert read_run(tmp_path / "run").snapshots
    assert not (tmp_path / "run" / CHECKPOINT_FILE).exists()
    kept = (tmp_path / "run" / "snapshots" / "cycle-00.safetensors").stat().st_mtime_ns
    resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == uninterrupted
    again = (tmp_path / "run" / "snapshots" / "cycle-00.safetensors").stat().st_mtime_ns
    assert again == kept  # what is finished is not written again


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(
    tmp_path: Path,
    uninterrupted: tuple[Any, ...],
    monkeypatch: pytest.MonkeyPatch,
    signum: signal.Signals,
) -> None:
    run_dir, real = tmp_path / "run", MetricsFile.step

    def step(self: MetricsFile, step: Any, epoch: int, cycle: int) -> None:
        real(self, step, epoch, cycle)
        if step.step == 29:
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(MetricsFile, "step", step)
    with pytest.raises(Stopped, match=signum.name) as stopped:
        train(short(run_dir, checkpoint_minutes=60))
    assert [signal.getsignal(each) for each in SIGNALS] == [signal.SIG_DFL] * len(
        SIGNALS
    )  # now one kills
    assert stopped.value.__notes__ == [
        f"1 of 2 cycles are finished and whole; snapensemble export {run_dir} takes them; "
        f"snapensemble train --resume {run_dir} goes on"
    ]
    assert torch.load(run_dir / CHECKPOINT_FILE)["step"] == 30
    monkeypatch.undo()
    resume(run_dir)
    assert outcome(run_dir) == uninterrupted


def test_a_signal_while_validating_loses_no_step(
    tmp_path: Path, uninterrupted: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    import snapensemble.trainer.validation

    real, calls = predict_logits, []

    def interrupted(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(snapensemble.trainer.validation, "predict_logits", interrupted)
    with pytest.raises(Stopped):
        train(short(tmp_path / "run", checkpoint_minutes=60))
    monkeypatch.undo()
    content = torch.load(tmp_path / "run" / CHECKPOINT_FILE)
    assert (content["step"], len(content["val_nlls"])) == (24, 1)  # validation is still to come
    resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == uninterrupted


def test_the_command_line_says_how_to_go_on_and_goes_on(
    tmp_path: Path, uninterrupted: tuple[Any, ...]
) -> None:
    run_dir = tmp_path / "run"
    flags = "--data digits --model tiny --cycles 2 --cycle-epochs 2 --batch-size 64 --flip"
    flags += " --crop-padding 1 --cutout 2 --threads 1 --checkpoint-minutes 60 --trivial-augment"
    flags += " --color-jitter 0.4 --random-erasing 0.25 --mixup 0.4 --cutmix 1 --class-balance sqrt"
    with forked(lambda: main(["train", *flags.split(), "--out", str(run_dir)])) as process:
        while "epoch   0" not in (line := process.stderr.readline()):
            assert line, process.communicate()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert f"snapensemble train --resume {run_dir} goes on" in said.splitlines()[-1]
    again = run_command("train", "--resume", run_dir)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == str(run_dir)
    assert outcome(run_dir) == uninterrupted


def test_a_full_disk_under_a_checkpoint_keeps_the_one_before(
    tmp_path: Path, uninterrupted: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, checkpoints = os.fsync, []

    def full_at_the_thirtieth(descriptor: int) -> None:
        if CHECKPOINT_FILE in os.readlink(f"/proc/self/fd/{descriptor}"):
            checkpoints.append(descriptor)
            if len(checkpoints) == 30:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full_at_the_thirtieth)
    with pytest.raises(WriteFailed, match=r"checkpoint\.pt: the disk is full") as failure:
        train(short(tmp_path / "run"))
    assert f"--resume {tmp_path / 'run'} goes on" in failure.value.__notes__[0]
    monkeypatch.undo()
    resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == uninterrupted


def test_a_checkpoint_that_does_not_fit_the_memory_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_arguments: object, **_named: object) -> None:
        raise MemoryError

    (tmp_path / CHECKPOINT_FILE).write_bytes(b"whole")
    model = torch.nn.Linear(1, 1)
    state = State(model, torch.optim.SGD(model.parameters(), lr=0.1))
    monkeypatch.setattr(torch, "load", lacking)
    with pytest.raises(MemoryError):
        load_checkpoint(tmp_path, state)


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    run_dir = train(short(tmp_path / "run"))
    before = outcome(run_dir)
    assert CHECKPOINT_FILE not in before[2]
    assert resume(run_dir) == run_dir
    assert outcome(run_dir) == before
    run = read_run(run_dir)
    write_run(run_dir, run.model_copy(update={"config": None}))  # as earlier versions wrote it
    assert resume(run_dir) == run_dir
    with pytest.raises(InvalidManifest, match="keeps no settings, since an early version made it"):
        resume(run_dir, more_cycles=1)


def test_two_processes_may_not_train_in_one_directory(tmp_path: Path) -> None:
    killed(lambda: train(short(tmp_path / "run")), 60)
    busy = pytest.raises(InvalidConfig, match="another process is training in")
    with locked(tmp_path / "run"), busy:
        resume(tmp_path / "run")
    resume(tmp_path / "run")


def test_a_new_run_into_a_started_one_is_refused_with_the_way_on(tmp_path: Path) -> None:
    killed(lambda: train(short(tmp_path / "run")), 60)
    with pytest.raises(InvalidConfig, match=f"or go on with --resume {tmp_path / 'run'}"):
        train(short(tmp_path / "run"))


def test_other_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(lambda: train(short(tmp_path / "run")), 60)
    import snapensemble.trainer.build

    real = load_dataset

    def changed(*args: Any, **kwargs: Any) -> Any:
        dataset = real(*args, **kwargs)
        dataset.train.images_NCHW[0, 0, 0, 0] ^= 1
        return dataset

    monkeypatch.setattr(snapensemble.trainer.build, "load_dataset", changed)
    with pytest.raises(InvalidData, match="digits is not what .*run began with"):
        resume(tmp_path / "run")


def test_a_damaged_checkpoint_is_refused_with_the_way_out(
    tmp_path: Path, uninterrupted: tuple[Any, ...]
) -> None:
    killed(lambda: train(short(tmp_path / "run")), 100)
    file = tmp_path / "run" / CHECKPOINT_FILE
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(InvalidManifest, match="remove it to train this run again from step 0"):
        resume(tmp_path / "run")
    file.unlink()
    resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == uninterrupted


def test_changed_settings_are_refused(tmp_path: Path) -> None:
    killed(lambda: train(short(tmp_path / "run")), 60)
    file = tmp_path / "run" / "config.toml"
    file.write_text(file.read_text().replace("cutout = 2", "cutout = 3"))
    with pytest.raises(InvalidManifest, match="changed or damaged after it was written"):
        resume(tmp_path / "run")


def test_a_directory_without_a_run_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="expected a directory made by `snapensemble train`"):
        resume(tmp_path)


def test_a_damaged_snapshot_is_said_before_training_goes_on(tmp_path: Path) -> None:
    killed(lambda: train(short(tmp_path / "run")), 120)
    file = tmp_path / "run" / "snapshots" / "cycle-00.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InvalidManifest, match=r"cycle-00\.safetensors: sha256 is"):
        resume(tmp_path / "run")
    file.write_bytes(whole + b"x")
    with pytest.raises(InvalidManifest, match=r"cycle-00\.safetensors has .* refused unread"):
        resume(tmp_path / "run")


def test_empty_folders_that_were_lost_are_made_again(
    tmp_path: Path, uninterrupted: tuple[Any, ...]
) -> None:
    killed(lambda: train(short(tmp_path / "run")), 60)
    for name in ("snapshots", "val-logits"):
        (tmp_path / "run" / name).rmdir()
    resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == uninterrupted


def test_images_that_have_moved_are_found_in_their_new_place(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images: dict[str, Any] = {"x_train": rng.integers(0, 256, (90, 8, 8), np.uint8)}
    images["y_train"] = np.arange(90) % 2
    np.savez(tmp_path / "old.npz", classes=["a", "b"], **images)
    settings = {"data": f"npz:{tmp_path / 'old.npz'}", "batch_size": 8}
    killed(lambda: train(short(tmp_path / "run", **settings)), 60)
    (tmp_path / "old.npz").rename(tmp_path / "new.npz")
    with pytest.raises(InvalidData) as failure:
        resume(tmp_path / "run")
    assert "give their new place by --data" in failure.value.__notes__[0]
    resume(tmp_path / "run", data=f"npz:{tmp_path / 'new.npz'}")
    assert read_run(tmp_path / "run").complete
