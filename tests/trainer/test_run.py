import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snapensemble.contracts.errors import (
    InvalidConfig,
    InvalidData,
    InvalidManifest,
    MemoryLacking,
    WriteFailed,
    message_of,
)
from snapensemble.contracts.metrics import nll, softmax
from snapensemble.contracts.run import read_run
from snapensemble.trainer.augmentation.mixing import Pairs
from snapensemble.trainer.build import choose_device, default_batch_size, default_padding
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.data.dataset import load_dataset
from snapensemble.trainer.fine_tuning.defaults import with_defaults, with_rates
from snapensemble.trainer.loop import Objective, TrainingDiverged
from snapensemble.trainer.recording.snapshots import load_model
from snapensemble.trainer.run import train
from snapensemble.trainer.validation import predict_logits
from tests.trainer.folders import make_folder


def short(out: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {"cycles": 2, "cycle_epochs": 1, "threads": 1, **changes}
    return TrainConfig(data="digits", out=out, **values)


def lines(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_snapshot_is_taken_at_the_lowest_rate_of_each_cycle(digits_run: Path) -> None:
    run = read_run(digits_run)
    steps = [line for line in lines(digits_run) if "loss" in line]
    assert run.complete and len(run.snapshots) == 3
    for snapshot in run.snapshots:
        rates = {line["step"]: line["lr"] for line in steps if line["cycle"] == snapshot.cycle}
        assert snapshot.learning_rate == min(rates.values())
        assert snapshot.step - 1 == max(rates)  # updates done: up to and with the lowest one
        assert rates[snapshot.step - 1] == snapshot.learning_rate


def test_a_snapshot_holds_the_weights_that_gave_its_validation_logits(digits_run: Path) -> None:
    run = read_run(digits_run)
    val = load_dataset("digits", val_fraction=0.1, split_seed=0).val
    for snapshot in run.snapshots:
        logits_NK = np.load(digits_run / snapshot.val_logits.file)
        again_NK = predict_logits(
            load_model(digits_run, run, snapshot), torch.from_numpy(val.images_NCHW)
        )
        np.testing.assert_allclose(again_NK, logits_NK, atol=1e-4)
        assert snapshot.val.nll == pytest.approx(nll(softmax(logits_NK), val.labels_N))


def test_metrics_have_a_line_per_step_and_a_line_per_epoch(digits_run: Path) -> None:
    run, all_lines = read_run(digits_run), lines(digits_run)
    steps = [line for line in all_lines if "loss" in line]
    epochs = [line for line in all_lines if "val_nll" in line]
    assert [line["step"] for line in steps] == list(range(run.schedule.total_steps))
    assert set(steps[0]) == {"step", "epoch", "cycle", "lr", "loss"}
    assert [line["epoch"] for line in epochs] == list(range(6))
    assert {"val_nll", "val_accuracy", "val_macro_accuracy"} <= set(epochs[0])
    assert epochs[-1]["val_nll"] == run.snapshots[-1].val.nll


def test_the_loss_falls(digits_run: Path) -> None:
    losses = [line["loss"] for line in lines(digits_run) if "loss" in line]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    hashes = []
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        run = read_run(train(short(tmp_path / name, seed=seed)))
        hashes.append([snapshot.sha256 for snapshot in run.snapshots])
    assert hashes[0] == hashes[1]
    assert set(hashes[0]).isdisjoint(hashes[2])


def test_training_does_not_disturb_the_callers_random_state(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(short(tmp_path / "run", cycles=1))
    assert torch.equal(torch.rand(2), expected)


def test_the_seed_does_not_change_the_split(tmp_path: Path) -> None:
    runs = [read_run(train(short(tmp_path / str(s), cycles=1, seed=s))) for s in (0, 1)]
    assert runs[0].val_labels == runs[1].val_labels
    assert runs[0].data.fingerprint == runs[1].data.fingerprint


def test_a_directory_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InvalidConfig, match="never written over"):
        train(short(tmp_path))
    assert os.listdir(tmp_path) == ["mine"]


def test_a_loss_that_is_no_number_ends_the_run_with_advice(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"step \d+ .*lower --lr-max"):
        train(short(tmp_path / "run", lr_max=1e12, cycle_epochs=5))


def test_a_last_update_that_goes_too_far_ends_the_run_with_advice(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match="no numbers at step 0 .*lower --lr-max"):
        train(short(tmp_path / "run", lr_max=1e30, batch_size=809))


def test_a_full_disk_keeps_the_snapshots_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = os.fsync, 0

    def full_at_the_second_snapshot(descriptor: int) -> None:
        nonlocal written
        if "cycle-01.safetensors" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += 1
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full_at_the_second_snapshot)
    with pytest.raises(WriteFailed, match=r"cycle-01\.safetensors: the disk is full"):
        train(short(tmp_path / "run"))
    assert written
    run = read_run(tmp_path / "run")
    assert [snapshot.cycle for snapshot in run.snapshots] == [0]
    assert not run.complete
    load_model(tmp_path / "run", run, run.snapshots[0])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 2 GiB"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_too_little_memory_is_said_with_what_needs_less_and_what_is_finished(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr("snapensemble.trainer.run.train_cycles", lacking)
    with pytest.raises(MemoryLacking, match="there is too little memory: ") as failure:
        train(short(tmp_path / "run"))
    said = message_of(failure.value)
    assert "0 of 2 cycles are finished" in said and "smaller --batch-size" in said


def test_a_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="more than the 809 training images; use at most 809"):
        train(short(tmp_path / "run", batch_size=2000))


def test_a_validation_part_that_no_export_can_divide_is_refused_before_training(
    tmp_path: Path,
) -> None:
    for part, count in (("train", 4), ("val", 1)):
        make_folder(tmp_path / part, {"a": count, "b": count})
    (tmp_path / "val" / "b" / "0.png").unlink()
    config = TrainConfig(data=str(tmp_path), out=tmp_path / "run", image_size=8, threads=1)
    with pytest.raises(InvalidData, match="part has 1 image; export needs 2 at least, one to ch"):
        train(config)
    assert not (tmp_path / "run").exists()


def test_padding_beyond_the_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="must be below the image's side of 8"):
        train(short(tmp_path / "run", crop_padding=8))


def test_a_cutout_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="cutout 8 must be below the image's side of 8"):
        train(short(tmp_path / "run", cutout=8))


@pytest.mark.parametrize("device", ["abacus", "meta", "hpu"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(InvalidConfig, match=f"'{device}' cannot be used here"):
        choose_device(device)


def test_an_out_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WriteFailed, match="choose another --out"):
        train(short(tmp_path / ("x" * 300)))
    (tmp_path / "file").touch()
    with pytest.raises(InvalidConfig, match="is not empty"):
        train(short(tmp_path / "file"))


@pytest.mark.parametrize(
    ("images", "size"),
    [(45_000, 128), (2560, 128), (2559, 64), (809, 32), (320, 16), (100, 16), (10, 10), (2, 2)],
)
def test_few_images_come_in_small_batches_by_default(images: int, size: int) -> None:
    assert default_batch_size(images) == size


def test_small_and_narrow_images_are_not_shifted_by_default() -> None:
    assert [default_padding(side) for side in (3, 8, 15, 16, 32, 64)] == [0, 0, 0, 2, 4, 8]


def test_a_damaged_snapshot_is_refused(tmp_path: Path) -> None:
    run_dir = train(short(tmp_path / "run", cycles=1))
    run = read_run(run_dir)
    file = run_dir / run.snapshots[0].file
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(InvalidManifest, match="sha256"):
        load_model(run_dir, run, run.snapshots[0])


def test_weights_of_another_architecture_are_refused(digits_run: Path) -> None:
    run = read_run(digits_run)
    other = run.model_copy(
        update={"training": run.training.model_copy(update={"model": "resnet20"})}
    )
    with pytest.raises(InvalidManifest, match="does not fit resnet20"):
        load_model(digits_run, other, run.snapshots[0])


def test_validation_images_that_are_trained_on_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    x_train = rng.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    x_val = np.concatenate([rng.integers(0, 256, (5, 8, 8), dtype=np.uint8), x_train[[3, 3, 8]]])
    np.savez(
        tmp_path / "data.npz", classes=["a", "b"], x_train=x_train, y_train=np.arange(60) % 2,
        x_val=x_val, y_val=np.arange(8) % 2,
    )  # fmt: skip
    train(
        TrainConfig(
            data=f"npz:{tmp_path / 'data.npz'}",
            out=tmp_path / "run",
            cycles=1,
            cycle_epochs=1,
            threads=1,
            model="tiny",
        )
    )
    assert "warning: 3 of 8 validation images are among the training" in capsys.readouterr().err
    train(short(tmp_path / "digits", cycles=1))
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "bf16"},
        {"label_smoothing": 0.1},
        {"random_resized_crop": 0.5},
        {"trivial_augment": True, "class_balance": "inverse"},
        {"mixup": 0.2, "cutmix": 1.0, "color_jitter": 0.4, "random_erasing": 0.25},
        {"model": "tiny+whiten"},
        {"momentum": 0.0, "schedule": "hypergradient"},
        {"t_mult": 2, "warmup_epochs": 0, "lr_max_decay": 0.5},
    ],
)
def test_every_way_of_training_learns_and_is_written_down(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    values = {"cycles": 2, "cycle_epochs": 4, "model": "tiny", **settings}
    if settings.get("schedule"):
        values["lr_start"] = 0.05
    run_dir = train(short(tmp_path / "run", **values))
    losses = [line["loss"] for line in lines(run_dir) if "loss" in line]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    run = read_run(run_dir)
    found = {**run.schedule.model_dump(), **run.training.model_dump()}
    names = {"schedule": "name", "t_mult": "T_mult", "lr_max_decay": "eta_max_decay"}
    for name, value in settings.items():
        if name != "warmup_epochs":
            assert found[names.get(name, name)] == value
    load_model(run_dir, run, run.snapshots[0])


def test_fine_tuning_starts_from_a_lower_rate(tmp_path: Path) -> None:
    def top_rate(**settings: Any) -> float:
        return with_rates(
            with_defaults(short(tmp_path, model="timm:resnet18", **settings))
        ).top_rate

    assert top_rate() == 0.1
    assert top_rate(pretrained="hub") == 0.01
    assert top_rate(pretrained="hub", lr_max=0.2) == 0.2


def test_the_images_of_each_class_are_written_down(digits_run: Path) -> None:
    run = read_run(digits_run)
    assert len(run.data.class_counts) == 10 and sum(run.data.class_counts) == run.data.train_images


def test_a_pair_counts_by_its_shares_and_each_of_it_by_its_class() -> None:
    logits_BK = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.1, 0.2]])
    weights_K = torch.tensor([0.5, 2.0, 3.0])
    objective = Objective(
        network=torch.nn.Identity(),
        label_smoothing=0.3,
        autocast=False,
        class_weights_K=weights_K,
    )
    log_probs_BK = torch.log_softmax(logits_BK, dim=1)

    def loss(row: int, label: int) -> float:
        smoothed = 0.7 * log_probs_BK[row, label] + 0.3 * log_probs_BK[row].mean()
        return -float(weights_K[label] * smoothed)

    plain = objective(logits_BK, torch.tensor([0, 1]))
    assert plain.item() == pytest.approx((loss(0, 0) + loss(1, 1)) / 2)
    pairs = Pairs(torch.tensor([0, 1]), torch.tensor([1, 2]), torch.tensor([0.25, 1.0]))
    expected = (0.25 * loss(0, 0) + 0.75 * loss(0, 1) + loss(1, 1)) / 2
    assert objective(logits_BK, pairs).item() == pytest.approx(expected)


def test_label_smoothing_spreads_a_share_of_the_label() -> None:
    logits_BK, labels_B = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    objective = Objective(network=torch.nn.Identity(), label_smoothing=0.2, autocast=False)
    log_probs = torch.log_softmax(logits_BK, dim=1)[0]
    expected = -(0.9 * log_probs[0] + 0.1 * log_probs[1])  # 0.8 + 0.2 / 2, and 0.2 / 2
    assert objective(logits_BK, labels_B).item() == pytest.approx(expected.item())
