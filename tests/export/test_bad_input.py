"""Every way in which an export fails leaves a clear message and no half bundle."""

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from snapensemble.cli import main
from snapensemble.contracts.bundle import BUNDLE_FILE
from snapensemble.contracts.errors import InvalidConfig, InvalidManifest, WriteFailed
from snapensemble.contracts.files import sha256_of
from snapensemble.contracts.run import RunManifest, read_run, write_run
from snapensemble.export.bundle import build_bundle
from snapensemble.export.config import ExportConfig
from tests.report.run.runs import keep

QUICK = ExportConfig(members=2, report=False)
AVERAGES = QUICK.model_copy(update={"select": "last", "weights": "ema", "members": 1})


@pytest.fixture
def run_dir(digits_run: Path, tmp_path: Path) -> Path:
    """A run of its own, to be damaged."""
    return Path(shutil.copytree(digits_run, tmp_path / "run"))


def rewrite(run_dir: Path, change: Callable[[RunManifest], RunManifest]) -> None:
    write_run(run_dir, change(read_run(run_dir)))


def refused(
    run_dir: Path, error: type[Exception], message: str, config: ExportConfig = QUICK
) -> None:
    target = run_dir.parent / "bundle"
    with pytest.raises(error, match=message):
        build_bundle(run_dir, target, config)
    assert os.listdir(run_dir.parent) == ["run"]


def test_a_truncated_snapshot_is_named(run_dir: Path) -> None:
    for snapshot in read_run(run_dir).all_snapshots:
        file = run_dir / snapshot.file
        file.write_bytes(file.read_bytes()[:-100])
    expected = r"cycle-02-ema.safetensors: sha256 is .*changed or damaged"
    refused(run_dir, InvalidManifest, expected, AVERAGES)


def test_a_snapshot_that_is_no_such_file_is_named_though_its_hash_fits(run_dir: Path) -> None:
    def damaged(run: RunManifest) -> RunManifest:
        averages = []
        for snapshot in run.averages:
            data = (run_dir / snapshot.file).read_bytes()[:1000]
            (run_dir / snapshot.file).write_bytes(data)
            averages.append(snapshot.model_copy(update={"sha256": sha256_of(data)}))
        return run.model_copy(update={"averages": tuple(averages)})

    rewrite(run_dir, damaged)
    refused(run_dir, InvalidManifest, r"cycle-02-ema.safetensors does not fit small", AVERAGES)


def rename_architecture(run_dir: Path, model: str) -> None:
    def other(run: RunManifest) -> RunManifest:
        training = run.training.model_copy(update={"model": model})
        return run.model_copy(update={"training": training})

    rewrite(run_dir, other)


def test_an_unknown_architecture_is_named(run_dir: Path) -> None:
    rename_architecture(run_dir, "resnet21")
    refused(run_dir, InvalidConfig, "resnet21")


def test_snapshots_of_another_architecture_do_not_fit(run_dir: Path) -> None:
    rename_architecture(run_dir, "tiny")
    refused(run_dir, InvalidManifest, "does not fit tiny")


def with_array(run_dir: Path, field: str, array: np.ndarray) -> None:
    """Have run.json name another array, whose hash fits."""
    reference = keep(run_dir, "other.npy", array)

    def other(run: RunManifest) -> RunManifest:
        if field != "val_logits":
            return run.model_copy(update={field: reference})
        last = run.snapshots[-1].model_copy(update={field: reference})
        return run.model_copy(update={"snapshots": (*run.snapshots[:-1], last)})

    rewrite(run_dir, other)


@pytest.mark.parametrize(
    ("field", "array", "message"),
    [
        ("val_labels", np.full(89, 10), "other.npy: expected a list of class indices below 10"),
        ("val_labels", np.full(89, -1), "other.npy: expected a list of class indices below 10"),
        ("val_labels", np.zeros((89, 1), np.int64), "other.npy: expected a list of class indices"),
        ("val_labels", np.zeros(0, np.int64), "other.npy: expected a list of class indices"),
        ("val_logits", np.full((89, 10), np.inf, np.float32), "other.npy: values are no numbers"),
        ("calibration_images", np.zeros((9, 3, 8, 8), np.uint8), r"other.npy: shape \(9, 3, 8"),
        ("calibration_images", np.zeros((0, 1, 8, 8), np.uint8), r"other.npy: shape \(0, 1, 8"),
    ],
)
def test_arrays_of_a_run_that_make_no_sense_are_named_though_their_hashes_fit(
    run_dir: Path, field: str, array: np.ndarray, message: str
) -> None:
    if field == "val_logits":
        array = np.resize(array, (read_run(run_dir).data.val_images, 10))
    with_array(run_dir, field, array)
    refused(run_dir, InvalidManifest, message)


def test_counts_of_other_classes_are_no_counts(run_dir: Path) -> None:
    def other(run: RunManifest) -> RunManifest:
        return run.model_copy(
            update={"data": run.data.model_copy(update={"class_counts": (1, 2, 3)})}
        )

    rewrite(run_dir, other)
    uniform = QUICK.model_copy(update={"class_prior": "uniform"})
    refused(run_dir, InvalidConfig, "does not say how many training images each class", uniform)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--members", "4"], "--members 4: the run has 3 snapshots; ask for at most 3"),
        (
            ["--max-accuracy-drop", "2"],
            "--max-accuracy-drop: expected a number, from 0 to 1",
        ),
        (["--max-nll-rise", "nan"], "--max-nll-rise: expected a finite number, at least 0, got"),
        (["--name", "my model"], "--name: expected letters, digits"),
        (["--members", "0"], "--members: expected a whole number, at least 1, or auto, got '0'"),
        (
            ["--select", "first"],
            "--select: expected one of auto, best, last, all, greedy, exhaustive, soup",
        ),
        (
            ["--max-int8-accuracy-drop", "1.5"],
            "--max-int8-accuracy-drop: expected a number, from 0",
        ),
        (["--max-int8-nll-rise", "-0.1"], "--max-int8-nll-rise: expected a number, at least 0"),
        (["--max-int8-nll-rise", "inf"], "--max-int8-nll-rise: expected a finite number, at"),
        (["--min-int8-agreement", "nan"], "--min-int8-agreement: expected a finite number, from"),
    ],
)
def test_the_command_says_what_is_wrong_and_exits_with_2(
    digits_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    command = ["export", str(digits_run), "--out", str(tmp_path / "bundle"), "--no-report"]
    assert main([*command, *flags]) == 2
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("full_at", [1, 2, 3])
def test_a_full_disk_at_any_file_leaves_the_old_bundle_as_it_was(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_at: int
) -> None:
    target = tmp_path / "bundle"
    build_bundle(digits_run, target, QUICK)
    before = {file: file.read_bytes() for file in target.rglob("*") if file.is_file()}
    real, written = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal written
        if Path(f"/proc/self/fd/{descriptor}").resolve().is_file():
            written += 1
            if written == full_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(WriteFailed, match="the disk is full"):
        build_bundle(digits_run, target, QUICK, force=True)
    assert written == full_at
    after = {file: file.read_bytes() for file in target.rglob("*") if file.is_file()}
    assert after == before
    assert os.listdir(tmp_path) == ["bundle"]


def test_ctrl_c_in_the_middle_leaves_nothing_behind(
    digits_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    signal_handlers: None,
) -> None:
    def stopped(*_: object) -> None:
        assert len(os.listdir(tmp_path)) == 1  # the hidden directory is there
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("snapensemble.export.bundle.write_members", stopped)
    command = ["export", str(digits_run), "--out", str(tmp_path / "bundle"), "--no-report"]
    assert main(command) == 130
    assert "snapensemble export: stopped by SIGINT" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_directory_that_is_no_bundle_is_not_replaced(digits_run: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(InvalidConfig, match=f"no {BUNDLE_FILE}"):
        build_bundle(digits_run, tmp_path / "photos", QUICK, force=True)
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"
