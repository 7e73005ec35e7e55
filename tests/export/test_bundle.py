import errno
import os
import shutil
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

import snapensemble.export.members
import snapensemble.export.onnx_export
from snapensemble.contracts.bundle import BUNDLE_FILE, read_bundle
from snapensemble.contracts.errors import InvalidConfig, InvalidManifest, WriteFailed
from snapensemble.contracts.files import read_verified, sha256_of, write_atomically
from snapensemble.contracts.manifest import FileRef
from snapensemble.contracts.metrics import mean_probabilities, nll, softmax
from snapensemble.contracts.options import build
from snapensemble.contracts.run import read_run, read_validation
from snapensemble.export.bundle import build_bundle, default_name, publishing
from snapensemble.export.calibration import fit_reference, split_validation
from snapensemble.export.config import NAME, ExportConfig
from snapensemble.export.onnx_export import converted
from snapensemble.export.parity import ParityFailed
from tests.forks import forked


def quick(**settings: Any) -> ExportConfig:
    """An export without the report, which takes longer than the rest."""
    return build(ExportConfig, {"report": False, **settings})


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(directory)): file.read_bytes()
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }


def test_a_bundle_holds_the_best_snapshots_by_the_selection_half_and_figures_of_both(
    digits_run: Path, digits_bundle: Path
) -> None:
    run, bundle = read_run(digits_run), read_bundle(digits_bundle)
    logits_SNK = np.stack([np.load(digits_run / s.val_logits.file) for s in run.snapshots])
    labels_N = np.load(digits_run / run.val_labels.file)
    split = split_validation(labels_N)
    nlls_S = [
        nll(softmax(logits_NK[split.selection_N]), labels_N[split.selection_N])
        for logits_NK in logits_SNK
    ]
    cycles = [m.cycle for m in bundle.members]
    assert set(cycles) == set(np.argsort(nlls_S)[:2])
    assert bundle.weights_M == [0.5, 0.5]
    assert bundle.classes == run.classes and bundle.image == run.image
    probs_MNK = softmax(logits_SNK[cycles])
    answers_NK = mean_probabilities(probs_MNK, None, bundle.temperature)
    assert bundle.val.nll == pytest.approx(nll(answers_NK, labels_N))
    assert bundle.calibration is not None
    held_out_N = split.calibration_N
    assert bundle.calibration.images == len(held_out_N)
    assert bundle.calibration.after.nll == pytest.approx(
        nll(answers_NK[held_out_N], labels_N[held_out_N])
    )
    assert bundle.calibration.before.nll == pytest.approx(
        nll(mean_probabilities(probs_MNK)[held_out_N], labels_N[held_out_N])
    )
    assert bundle.parity.batch_sizes == (1, 2, 7, 32)
    assert bundle.reference == fit_reference(
        probs_MNK[:, held_out_N], bundle.weights_M, bundle.temperature
    )


def test_every_file_is_listed_with_its_hash(digits_bundle: Path) -> None:
    bundle = read_bundle(digits_bundle)
    for member in bundle.members:
        read_verified(digits_bundle, member.file, member.sha256)
    assert set(tree(digits_bundle)) == {BUNDLE_FILE} | {m.file for m in bundle.members}


def test_the_same_run_exports_to_the_same_bytes(
    digits_run: Path, digits_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        snapensemble.export.onnx_export, "converted", converted
    )  # again, from the beginning
    build_bundle(digits_run, tmp_path / "again", quick(select="best", members=2, name="digits"))
    assert tree(tmp_path / "again") == tree(digits_bundle)


def test_an_existing_bundle_is_kept_unless_forced(digits_run: Path, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    build_bundle(digits_run, target, quick(members=1))
    before = tree(target)
    with pytest.raises(InvalidConfig, match="--force to replace"):
        build_bundle(digits_run, target, quick(members=1, select="last"))
    assert tree(target) == before
    build_bundle(digits_run, target, quick(members=1, select="last"), force=True)
    assert read_bundle(target).selection.rule == "last"
    assert os.listdir(tmp_path) == ["bundle"]


def test_force_does_not_replace_what_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with (
        pytest.raises(InvalidConfig, match="is not a bundle"),
        publishing(tmp_path / "photos", replace=True),
    ):
        pass


@pytest.mark.parametrize("failure", [ParityFailed("no"), KeyboardInterrupt()])
def test_a_failure_or_an_interrupt_leaves_nothing(
    digits_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(snapensemble.export.members, "parity", fail)
    with pytest.raises(type(failure)):
        build_bundle(digits_run, tmp_path / "bundle", quick(members=2))
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_the_old_bundle_whole(
    digits_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle"
    shutil.copytree(digits_bundle, target)
    before = tree(target)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (
        pytest.raises(WriteFailed, match="disk is full"),
        publishing(target, replace=True) as directory,
    ):
        monkeypatch.setattr(os, "fsync", full)
        write_atomically(directory / "x", b"y")
    assert tree(target) == before
    assert os.listdir(tmp_path) == ["bundle"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (np.zeros((5, 10), np.float32), r"shape \(5, 10\), expected \(90, 10\)"),
        (np.zeros((90, 10)), "holds float64, expected float32"),
    ],
)
def test_validation_logits_of_another_shape_or_type_are_refused(
    digits_run: Path, tmp_path: Path, other: np.ndarray, message: str
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(digits_run, run_dir)
    np.save(run_dir / "other.npy", other)
    data = (run_dir / "other.npy").read_bytes()
    run = read_run(run_dir)
    reference = FileRef(file="other.npy", sha256=sha256_of(data), size=len(data))
    swapped = run.snapshots[0].model_copy(update={"val_logits": reference})
    with pytest.raises(InvalidManifest, match=message):
        read_validation(run_dir, run.model_copy(update={"snapshots": (swapped,)}))


@pytest.mark.parametrize("failure", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_a_replacement_that_fails_half_way_puts_the_old_bundle_back(
    digits_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    target = tmp_path / "bundle"
    shutil.copytree(digits_bundle, target)
    before = tree(target)
    real = Path.rename

    def rename(self: Path, to: Path) -> Path:
        if to == target and self.name == "bundle":
            raise failure
        return real(self, to)

    monkeypatch.setattr(Path, "rename", rename)
    with (
        pytest.raises((WriteFailed, KeyboardInterrupt)),
        publishing(target, replace=True) as directory,
    ):
        (directory / BUNDLE_FILE).write_text("new")
    assert tree(target) == before
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_bundle_whose_replacement_was_killed_half_way_is_put_back_by_the_next(
    digits_bundle: Path, tmp_path: Path
) -> None:
    target = tmp_path / "bundle"
    shutil.copytree(digits_bundle, target)
    before = tree(target)
    real = Path.rename

    def rename(self: Path, to: Path) -> Path:
        if to == target:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, to)

    def killed() -> int:
        with (
            mock.patch.object(Path, "rename", rename),
            publishing(target, replace=True) as directory,
        ):
            (directory / BUNDLE_FILE).write_text("new")
        return 0

    with forked(killed) as process:
        assert process.wait() == -signal.SIGKILL
    assert not target.exists()
    with pytest.raises(ParityFailed), publishing(target, replace=True):
        assert tree(target) == before
        raise ParityFailed("no")
    assert tree(target) == before
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_model_name_that_clients_could_not_use_is_refused(
    digits_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        InvalidConfig, match="^--name: expected letters, digits, .* got 'my model/1'$"
    ):
        build_bundle(digits_run, tmp_path / "bundle", quick(name="my model/1"))


@pytest.mark.parametrize(
    ("directory", "name"),
    [("flowers", "flowers"), ("my model (2)", "my-model-2"), ("---", "model"), ("_new", "new")],
)
def test_the_default_name_is_the_directorys(tmp_path: Path, directory: str, name: str) -> None:
    assert default_name(tmp_path / directory) == name
    assert NAME.fullmatch(name)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("place", [".", "/"])
def test_a_place_without_a_name_of_its_own_is_refused_as_any_other_that_is_taken(
    place: str, force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    message = "is not a bundle" if force else "exists; choose"
    with pytest.raises(InvalidConfig, match=message), publishing(Path(place), replace=force):
        raise AssertionError("nothing is exported")
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_bundle_that_is_the_working_directory_can_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / BUNDLE_FILE).write_text("former")
    monkeypatch.chdir(tmp_path / "bundle")
    with publishing(Path(), replace=True) as directory:
        (directory / BUNDLE_FILE).write_text("new")
    assert tree(tmp_path) == {f"bundle/{BUNDLE_FILE}": b"new"}
