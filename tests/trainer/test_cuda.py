"""What only a GPU can show; passed over where none is visible (`make test-gpu`)."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import snapensemble.trainer.loop
from snapensemble.contracts.pixels import ImageContract
from snapensemble.contracts.process import Stopped
from snapensemble.contracts.run import RunManifest, read_run
from snapensemble.trainer.augmentation.batch import Augmentation
from snapensemble.trainer.augmentation.mixing import Mixing
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.data.dataset import load_dataset
from snapensemble.trainer.device.transfers import Reading
from snapensemble.trainer.distributed import World
from snapensemble.trainer.loop import Augmented, Batches, Objective, read, train_epoch
from snapensemble.trainer.models.registry import build_model
from snapensemble.trainer.recording.checkpoint import State
from snapensemble.trainer.recording.observers import MetricsFile
from snapensemble.trainer.recording.snapshots import load_model
from snapensemble.trainer.run import resume, train
from snapensemble.trainer.schedule import Cycle
from snapensemble.trainer.schedules import Constant
from snapensemble.trainer.validation import predict_logits

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.usefixtures("signal_handlers"),
]


def short(out: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "device": "cuda", "cycles": 2, "cycle_epochs": 2, "batch_size": 64, "threads": 1, "seed": 3,
        **changes,
    }  # fmt: skip
    return TrainConfig(data="digits", out=out, **values)


def losses(run_dir: Path) -> list[float]:
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def final_accuracy(run: RunManifest) -> float:
    return run.snapshots[-1].val.accuracy


def test_a_gpu_takes_the_same_steps_as_a_processor(tmp_path: Path) -> None:
    on_gpu, on_cpu = tmp_path / "gpu", tmp_path / "cpu"
    train(short(on_gpu))
    train(short(on_cpu, device="cpu"))
    np.testing.assert_allclose(losses(on_gpu)[:10], losses(on_cpu)[:10], rtol=0.02)
    assert final_accuracy(read_run(on_gpu)) == pytest.approx(
        final_accuracy(read_run(on_cpu)), abs=0.05
    )


EVERYTHING = Augmentation(
    crop_padding=1, flip=True, cutout=2, min_area=0.5, trivial=True, jitter=0.4, erasing=0.25
)


@pytest.mark.parametrize("augmentation", [Augmentation(), EVERYTHING], ids=["plain", "everything"])
def test_between_two_readings_of_the_loss_nothing_waits_for_the_gpu(
    augmentation: Augmentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = torch.device("cuda")
    image = ImageContract(channels=3, height=8, width=8, mean=(0.5,) * 3, std=(0.3,) * 3)
    network = build_model("tiny", 3, image).to(device).train()
    state = State(network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, fused=True))
    batches = Batches(
        source=Augmented(
            images_NCHW=torch.zeros(200, 3, 8, 8, dtype=torch.uint8, device=device),
            augmentation=augmentation,
            fill_C=torch.zeros(3, dtype=torch.uint8, device=device),
        ),
        labels_N=torch.arange(200) % 3,
        batch_size=10,
        seed=0,
        world=World(),
        device=device,
        mixing=Mixing(mixup=0.4, cutmix=1.0),
    )
    objective = Objective(network=network, label_smoothing=0.1, autocast=True)
    cycle, real = Cycle(0, 0, batches.steps_per_epoch), read

    def reading(*args: Any) -> Any:
        torch.cuda.set_sync_debug_mode("default")
        try:
            return real(*args)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    monkeypatch.setattr(snapensemble.trainer.loop, "read", reading)
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps = train_epoch(state, objective, batches, Constant(eta=0.1), cycle, Reading(device))
        assert sum(map(len, steps)) == 20
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_snapshot_of_a_gpu_answers_the_same_without_one(tmp_path: Path) -> None:
    run_dir = train(short(tmp_path / "run"))
    run = read_run(run_dir)
    val = load_dataset("digits", val_fraction=0.1, split_seed=0).val
    for snapshot in run.snapshots:
        kept_NK = np.load(run_dir / snapshot.val_logits.file)
        again_NK = predict_logits(
            load_model(run_dir, run, snapshot), torch.from_numpy(val.images_NCHW)
        )
        np.testing.assert_allclose(again_NK, kept_NK, atol=0.05)


def test_a_run_that_was_stopped_goes_on_close_to_where_it_would_have_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Close, and not the same bits: sums on a GPU come in any order."""
    whole, stopped, real = tmp_path / "whole", tmp_path / "stopped", MetricsFile.step
    train(short(whole))

    def step(self: MetricsFile, step: Any, epoch: int, cycle: int) -> None:
        real(self, step, epoch, cycle)
        if step.step == 29:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(MetricsFile, "step", step)
    with pytest.raises(Stopped):
        train(short(stopped))
    monkeypatch.undo()
    resume(stopped)
    assert len(losses(stopped)) == len(losses(whole))
    np.testing.assert_allclose(losses(stopped)[:30], losses(whole)[:30], rtol=0.05)
    assert final_accuracy(read_run(stopped)) == pytest.approx(
        final_accuracy(read_run(whole)), abs=0.05
    )


def test_a_run_of_a_gpu_goes_on_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = MetricsFile.step

    def step(self: MetricsFile, step: Any, epoch: int, cycle: int) -> None:
        real(self, step, epoch, cycle)
        if step.step == 29:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(MetricsFile, "step", step)
    with pytest.raises(Stopped):
        train(short(tmp_path / "run"))
    monkeypatch.undo()
    resume(tmp_path / "run", device="cpu")
    assert read_run(tmp_path / "run").complete


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # both from torch.compile
@pytest.mark.filterwarnings("ignore:TensorFloat32:UserWarning")
@pytest.mark.parametrize(
    "changes", [{"precision": "bf16"}, {"compile": True}, {"model": "resnet20"}], ids=str
)
def test_every_way_of_training_learns(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = read_run(train(short(tmp_path / "run", cycle_epochs=6, **changes)))
    assert run.complete and final_accuracy(run) > 0.8


def test_a_process_of_torchrun_trains_on_a_gpu(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"),
        *("-m", "snapensemble.trainer", "--data", "digits", "--out", str(tmp_path / "run")),
        *("--cycles", "2", "--cycle-epochs", "2", "--batch-size", "64", "--device", "cuda"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert read_run(tmp_path / "run").complete


def test_more_processes_than_gpus_are_refused_with_their_number(tmp_path: Path) -> None:
    processes = torch.cuda.device_count() + 1
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(processes), "-m", "snapensemble.trainer", "--data", "digits"),
        *("--out", str(tmp_path / "run"), "--cycles", "1", "--cycle-epochs", "1"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode != 0
    assert f"has no GPU: this machine has {processes - 1}" in done.stderr
