"""Bundles whose members were asked about images: int8, and the report with test figures."""

import base64
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

from snapensemble.cli import main
from snapensemble.contracts.bundle import BundleManifest, read_bundle
from snapensemble.contracts.errors import InvalidData
from snapensemble.contracts.metrics import Answers
from snapensemble.contracts.run import read_run
from snapensemble.evaluate import evaluate
from snapensemble.export.bundle import build_bundle
from snapensemble.export.config import ExportConfig
from snapensemble.export.int8 import rounding
from snapensemble.export.report_inputs import compare_speed, gather_report_inputs
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.run import train
from tests.rendering import unrendered


@pytest.fixture(scope="module", autouse=True)
def _reports_take_a_moment() -> Iterator[None]:
    with unrendered(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "snapensemble.export.report_inputs.compare_speed", partial(compare_speed, seconds=0.05)
        )
        yield


@pytest.fixture(scope="module")
def int8_bundle(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three snapshots in int8, with a report."""
    target = tmp_path_factory.mktemp("int8") / "bundle"
    config = ExportConfig(
        select="all", quantize="int8", int8_gate="estimate", cascade=True, name="digits"
    )
    build_bundle(digits_run, target, config)
    return target


def run_of_dark_and_light(directory: Path, **counts: int) -> Path:
    """A short run on `directory/before.npz`, which has so many images in its parts."""
    rng = np.random.default_rng(0)
    parts: dict[str, Any] = {"classes": np.array(["dark", "light"])}
    for part, count in counts.items():
        labels_N = np.arange(count) % 2
        noise_NHW = rng.normal(0, 30, (count, 8, 8))
        images_NHW = np.clip(60 + 130 * labels_N[:, None, None] + noise_NHW, 0, 255)
        parts |= {f"x_{part}": images_NHW.astype(np.uint8), f"y_{part}": labels_N}
    np.savez(directory / "before.npz", **parts)
    out = directory / "run"
    train(
        TrainConfig(
            data=f"npz:{directory / 'before.npz'}", out=out, model="tiny", cycles=2,
            cycle_epochs=1, batch_size=16, threads=1,
        )
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def moved_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A short run on an .npz file, and where that file is now."""
    directory = tmp_path_factory.mktemp("moved")
    out = run_of_dark_and_light(directory, train=60, val=20, test=30)
    (directory / "before.npz").rename(directory / "after.npz")
    return out, directory / "after.npz"


def test_int8_members_say_so_and_answer_as_the_manifest_says(int8_bundle: Path) -> None:
    bundle = read_bundle(int8_bundle)
    assert {member.precision for member in bundle.members} == {"int8"}
    assert bundle.quantization is not None and bundle.quantization.agreement > 0.9
    for member in bundle.members:
        model = onnx.load(int8_bundle / member.file)
        said = {entry.key: entry.value for entry in model.metadata_props}
        assert said["precision"] == "int8"
        assert json.loads(said["classes"]) == list(bundle.classes)
    figures = evaluate(int8_bundle, split="val")["ensemble"]
    # Batches of another size round otherwise, which int8 can turn into a whole step.
    assert figures["nll"] == pytest.approx(bundle.val.nll, abs=2e-3)


def test_the_report_holds_the_test_figures_that_evaluate_measures(int8_bundle: Path) -> None:
    figures = json.loads((int8_bundle / "report" / "figures.json").read_text())
    assert (figures["split"], figures["images"]) == ("test", 898)
    measured = evaluate(int8_bundle)["ensemble"]
    assert figures["answers"]["after"]["nll"] == pytest.approx(measured["nll"], abs=2e-3)
    assert figures["speed"]["int8"]["batch_16"] > 0
    assert "digits" in (int8_bundle / "report" / "index.html").read_text()


def pictures_of(bundle_dir: Path) -> list[tuple[str, NDArray[np.uint8]]]:
    """The class of each thumbnail of a report, and its pixels."""
    text = (bundle_dir / "report" / "index.html").read_text()
    found = re.findall(r'alt="Image \d+: (\w+)" src="data:image/png;base64,([^"]+)"', text)
    return [
        (name, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))) for name, data in found
    ]


@pytest.mark.parametrize("tested", [True, False], ids=["test part", "no test part"])
def test_thumbnails_show_the_images_that_the_report_tells_of(tmp_path: Path, tested: bool) -> None:
    parts = {"train": 60, "val": 40, **({"test": 30} if tested else {})}
    run_dir = run_of_dark_and_light(tmp_path, **parts)
    build_bundle(run_dir, tmp_path / "bundle")
    figures = json.loads((tmp_path / "bundle" / "report" / "figures.json").read_text())
    assert figures["split"] == ("test" if tested else "calibration")
    told = [*figures["answers"]["mistakes"], *figures["answers"]["least_sure"]]
    pictures = pictures_of(tmp_path / "bundle")
    assert [name for name, _ in pictures] == [one["right"] for one in told]
    assert {name for name, _ in pictures} == {"dark", "light"}
    for name, pixels_HW in pictures:
        assert pixels_HW.shape == (8, 8)
        assert (pixels_HW.mean() < 125) == (name == "dark")
    build_bundle(run_dir, tmp_path / "private", ExportConfig(thumbnails=False))
    assert pictures_of(tmp_path / "private") == []
    private = json.loads((tmp_path / "private" / "report" / "figures.json").read_text())
    assert private["answers"] == figures["answers"]


def test_the_same_run_gives_the_same_int8_bundle_but_for_the_speed(
    int8_bundle: Path, digits_run: Path, tmp_path: Path
) -> None:
    config = ExportConfig(
        select="all", quantize="int8", int8_gate="estimate", cascade=True, name="digits"
    )
    again = tmp_path / "bundle"
    build_bundle(digits_run, again, config)
    files = {file.relative_to(again) for file in again.rglob("*") if file.is_file()}
    assert files == {f.relative_to(int8_bundle) for f in int8_bundle.rglob("*") if f.is_file()}
    for file in files - {Path("report/figures.json"), Path("report/index.html")}:
        assert (again / file).read_bytes() == (int8_bundle / file).read_bytes(), file
    first, second = (
        json.loads((bundle / "report" / "figures.json").read_text())
        for bundle in (int8_bundle, again)
    )
    assert {**first, "speed": None} == {**second, "speed": None}


def test_int8_beyond_a_limit_is_refused_with_its_figures(
    digits_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ["export", str(digits_run), "--out", str(tmp_path / "bundle"), "--quantize", "int8"]
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "90 validation images cannot show that int8 keeps its limits" in message
    assert "--int8-gate estimate" in message
    command += ["--int8-gate", "estimate"]
    monkeypatch.setattr(rounding, "LARGEST_WEIGHT", 1)  # three values, too few for any network
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "int8 changes the ensemble's answers to 90 validation images too much" in message
    assert "--quantize none" in message
    assert os.listdir(tmp_path) == []


def test_a_bundle_without_its_data_set_says_that_its_report_has_no_test_figures(
    moved_run: tuple[Path, Path], tmp_path: Path
) -> None:
    said: list[str] = []
    build_bundle(moved_run[0], tmp_path / "bundle", say=said.append)
    assert any("no test figures" in line and "give --data" in line for line in said)
    figures = json.loads((tmp_path / "bundle" / "report" / "figures.json").read_text())
    assert (figures["split"], figures["images"]) == ("calibration", 10)


def test_a_data_set_that_nothing_here_can_read_gives_a_report_without_test_figures(
    moved_run: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # not installed
    run, said = read_run(moved_run[0]), list[str]()
    data = run.data.model_copy(update={"spec": "parquet:flowers.parquet"})
    members = SimpleNamespace(precision="fp32")
    held_out = Answers(np.full((1, 2, 2), 0.5), np.arange(2))
    inputs = gather_report_inputs(
        members,  # type: ignore[arg-type]
        members,  # type: ignore[arg-type]
        held_out,
        np.arange(2),
        np.zeros((1, *run.image.shape), np.uint8),
        run.model_copy(update={"data": data}),
        ExportConfig(),
        said.append,
    )
    assert (inputs.calibration, inputs.test, inputs.picture) == (held_out, None, None)
    assert "no test figures: " in said[-1] and "install snapensemble[data]" in said[-1]


def test_a_data_set_that_has_moved_is_found_with_data(
    moved_run: tuple[Path, Path], tmp_path: Path
) -> None:
    run_dir, file = moved_run
    config = ExportConfig(quantize="int8", int8_gate="estimate", data=f"npz:{file}")
    manifest: BundleManifest = build_bundle(run_dir, tmp_path / "bundle", config)
    assert manifest.quantization is not None and manifest.quantization.images == 20
    figures = json.loads((tmp_path / "bundle" / "report" / "figures.json").read_text())
    assert (figures["split"], figures["images"]) == ("test", 30)


def test_int8_without_the_validation_images_says_where_to_point(
    moved_run: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(InvalidData, match="before.npz"):
        build_bundle(moved_run[0], tmp_path / "bundle", ExportConfig(quantize="int8"))
    assert os.listdir(tmp_path) == []
