"""From a folder of images to an answer over HTTP, with every real part."""

import json
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from snapensemble.cli import main
from snapensemble.contracts.bundle import BundleManifest, read_bundle
from snapensemble.contracts.metrics import tempered
from snapensemble.contracts.run import read_run
from snapensemble.evaluate import bundle_data, evaluate
from snapensemble.export.bundle import build_bundle
from snapensemble.export.config import ExportConfig
from snapensemble.server_process import server_process
from snapensemble.trainer.recording.snapshots import load_model
from tests.factories import encoded


def torchs_answer(run_dir: Path, bundle: BundleManifest, images: torch.Tensor) -> np.ndarray:
    """The reference: the mean of the snapshots' own softmaxes, in float64, with the temperature."""
    run = read_run(run_dir)
    with torch.inference_mode():
        probs = [
            load_model(run_dir, run, run.snapshots[member.cycle])
            .double()(images.double())
            .softmax(dim=1)
            .numpy()
            for member in bundle.members
        ]
    return tempered(np.mean(probs, axis=0), bundle.temperature)


def test_the_http_answer_equals_torchs_mean_of_softmaxes(
    digits_run: Path, digits_bundle: Path
) -> None:
    bundle = read_bundle(digits_bundle)
    test = bundle_data(bundle)
    pngs = [encoded(Image.fromarray(image_CHW[0])) for image_CHW in test.images_NCHW[:60]]
    with (
        server_process(digits_bundle, "--port", "0") as (_, url),
        httpx.Client(base_url=url) as http,
    ):
        answers = [http.post("/predict", content=png).json()["predictions"][0] for png in pngs]
    expected = torchs_answer(digits_run, bundle, torch.from_numpy(test.images_NCHW[:60]))
    np.testing.assert_allclose([a["probabilities"] for a in answers], expected, atol=1e-4)
    assert [a["index"] for a in answers] == expected.argmax(axis=1).tolist()


def test_a_folder_of_photographs_goes_all_the_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for name, colour in (("dark", 60), ("light", 190)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(30):
            shape = (20 + i, 30, 3)
            pixels = np.clip(rng.normal(colour, 40, shape), 0, 255).astype(np.uint8)
            (tmp_path / "photos" / name / f"{i}.jpg").write_bytes(
                encoded(Image.fromarray(pixels), "JPEG")
            )
    run_dir, bundle_dir = tmp_path / "run", tmp_path / "bundle"
    common = ["--image-size", "16", "--batch-size", "8", "--threads", "1"]
    budget = ["--cycles", "2", "--cycle-epochs", "2", "--model", "small"]
    photos = str(tmp_path / "photos")
    assert main(["train", "--data", photos, "--out", str(run_dir), *common, *budget]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(run_dir)
    assert main(["export", str(run_dir), "--out", str(bundle_dir), "--members", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(bundle_dir)
    assert main(["evaluate", str(bundle_dir), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["images"] == 12
    assert figures["ensemble"]["accuracy"] == 1.0
    assert figures["ensemble"]["members_used"] == len(figures["members"]) == 2
    light = str(tmp_path / "photos" / "light" / "3.jpg")
    assert main(["predict", light, "--bundle", str(bundle_dir), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0]["class"] == "light"


def test_evaluate_measures_what_torch_says(digits_run: Path, digits_bundle: Path) -> None:
    figures = evaluate(digits_bundle)
    bundle = read_bundle(digits_bundle)
    test = bundle_data(bundle)
    probs_NK = torchs_answer(digits_run, bundle, torch.from_numpy(test.images_NCHW))
    right_N = probs_NK[np.arange(len(test)), test.labels_N]
    assert figures["images"] == len(test) == 898
    assert figures["ensemble"]["nll"] == pytest.approx(-np.log(right_N).mean(), abs=1e-5)
    hits = (probs_NK.argmax(axis=1) == test.labels_N).mean()
    assert figures["ensemble"]["accuracy"] == pytest.approx(hits)


def test_evaluate_on_validation_gives_the_figures_that_export_wrote(digits_bundle: Path) -> None:
    bundle = read_bundle(digits_bundle)
    figures = evaluate(digits_bundle, split="val")
    assert figures["ensemble"]["nll"] == pytest.approx(bundle.val.nll, abs=1e-5)
    assert figures["ensemble"]["accuracy"] == pytest.approx(bundle.val.accuracy)
    for row, member in zip(figures["members"], bundle.members, strict=True):
        assert row["nll"] == pytest.approx(member.val.nll, abs=1e-5)


def test_snapshots_of_two_cycles_differ_as_members_of_an_ensemble_must(
    digits_run: Path, tmp_path: Path
) -> None:
    manifest = build_bundle(digits_run, tmp_path / "all", ExportConfig(select="all", report=False))
    assert len({member.sha256 for member in manifest.members}) == 3
    assert evaluate(tmp_path / "all", limit=10)["images"] == 10
