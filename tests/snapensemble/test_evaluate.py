"""`snapensemble evaluate` in both modes, with a cascade written into a real bundle.

Shapes: M members, N images, K classes.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from snapensemble.cli import main
from snapensemble.contracts.bundle import read_bundle, write_bundle
from snapensemble.contracts.cascade import run_cascade
from snapensemble.contracts.errors import InvalidConfig, InvalidData
from snapensemble.contracts.metrics import Floats, Labels, mean_probabilities, summary
from snapensemble.contracts.prediction_sets import prediction_sets
from snapensemble.evaluate import bundle_data, evaluate, sample, table
from snapensemble.export.bundle import build_bundle
from snapensemble.export.config import ExportConfig
from snapensemble.report.bundle.records import read_figures
from snapensemble.serving.errors import InvalidParameter
from snapensemble.serving.inference.engine import load_engine
from snapensemble.unlike import ask_others, find_others
from tests.factories import calibration_record, cascade_record


@pytest.fixture(scope="module")
def cascade_dir(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two members of the digits bundle; a lead of 0.95 is enough for the first alone."""
    directory = tmp_path_factory.mktemp("cascade") / "bundle"
    shutil.copytree(digits_bundle, directory)
    record = cascade_record((0.0,), (0.95,), (None,), temperatures=(0.8,), sets=0.75)
    extras = {"cascade": record, "calibration": calibration_record(0.7)}
    write_bundle(directory, read_bundle(directory).model_copy(update=extras))
    return directory


@pytest.fixture(scope="module")
def said(cascade_dir: Path) -> tuple[Floats, Labels]:
    """probs_MNK of the test split, and its labels."""
    part = bundle_data(read_bundle(cascade_dir))
    with load_engine(cascade_dir) as engine:
        return engine.predict(part.images_NCHW), part.labels_N


def test_evaluate_of_a_cascade_gives_the_figures_of_the_reference(
    cascade_dir: Path, said: tuple[Floats, Labels]
) -> None:
    bundle = read_bundle(cascade_dir)
    rule = bundle.cascade_at()
    assert rule is not None
    answers_NK, used_N = run_cascade(said[0], rule, bundle.temperature)
    assert 0.1 < (used_N == 1).mean() < 0.9
    figures = evaluate(cascade_dir, mode="cascade")
    expected = {**summary(answers_NK, said[1]), "members_used": used_N.mean()}
    assert figures["ensemble"] == pytest.approx(expected, abs=1e-6)
    assert figures["mode"] == "cascade" and figures["images"] == len(said[1])
    assert figures["members"] == evaluate(cascade_dir)["members"]  # of all images, in both modes


def test_evaluate_asks_every_member_unless_told_otherwise(
    cascade_dir: Path, said: tuple[Floats, Labels]
) -> None:
    bundle = read_bundle(cascade_dir)
    probs_NK = mean_probabilities(said[0], bundle.weights_M, bundle.temperature)
    figures = evaluate(cascade_dir)
    assert figures["mode"] == "full"
    expected = {**summary(probs_NK, said[1]), "members_used": 2}
    assert figures["ensemble"] == pytest.approx(expected, abs=1e-6)
    assert set(expected) == {
        "accuracy", "macro_accuracy", "nll", "ece", "adaptive_ece", "brier", "members_used",
    }  # fmt: skip


@pytest.mark.parametrize(("drop", "used"), [(1.0, 1), (0.0, 2)])
def test_a_tolerance_picks_another_point(cascade_dir: Path, drop: float, used: int) -> None:
    figures = evaluate(cascade_dir, mode="cascade", max_accuracy_drop=drop, limit=50)
    assert figures["ensemble"]["members_used"] == used


@pytest.mark.parametrize("mode", ["full", "cascade"])
def test_prediction_sets_are_measured_as_they_are_served(
    cascade_dir: Path, said: tuple[Floats, Labels], mode: Any
) -> None:
    bundle = read_bundle(cascade_dir)
    rule = bundle.cascade_at()
    assert rule is not None and bundle.cascade is not None and bundle.calibration is not None
    if mode == "full":
        probs_NK = mean_probabilities(said[0], bundle.weights_M, bundle.temperature)
        sets = bundle.calibration.sets
    else:
        probs_NK, _ = run_cascade(said[0], rule, bundle.temperature)
        sets = bundle.cascade.point().sets
    figures = evaluate(cascade_dir, mode=mode)
    for quantile, measured in zip(sets, figures["prediction_sets"], strict=True):
        in_set_NK = prediction_sets(probs_NK, quantile)
        assert measured["method"] == quantile.method and measured["coverage"] == 0.9
        right_N = in_set_NK[np.arange(len(said[1])), said[1]]
        assert measured["covered"] == pytest.approx(right_N.mean())
        assert measured["mean_size"] == pytest.approx(in_set_NK.sum(axis=1).mean())
    record = (bundle.calibration if mode == "full" else bundle.cascade.point()).abstention
    assert record is not None
    for row in figures["abstention"]:
        point = record.at(row["risk"])
        assert point is not None
        given_N = probs_NK.max(axis=1) > (point.threshold or 0)
        assert row["answered"] == pytest.approx(given_N.mean())
        wrong_N = probs_NK.argmax(axis=1) != said[1]
        assert row["error"] == (pytest.approx(wrong_N[given_N].mean()) if given_N.any() else None)
    assert [row["risk"] for row in figures["abstention"]] == [0.1, 0.2]
    lines = table(figures).splitlines()
    assert sum(line.startswith("at most ") for line in lines) == 2
    assert sum(line.startswith("sets of 90% (") for line in lines) == 2
    assert sum(line.startswith("cascade: ") for line in lines) == (mode == "cascade")


def test_a_bundle_without_them_has_no_sets_and_no_cascade(
    digits_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = Path(shutil.copytree(digits_bundle, tmp_path / "plain"))
    without = {"calibration": None, "cascade": None}
    write_bundle(plain, read_bundle(plain).model_copy(update=without))
    assert main(["evaluate", str(plain), "--limit", "9", "--json"]) == 0
    assert "prediction_sets" not in json.loads(capsys.readouterr().out)
    for flags in ([], ["--max-accuracy-drop", "0.01"]):
        assert main(["evaluate", str(plain), "--limit", "9", "--mode", "cascade", *flags]) == 2
        assert "this bundle carries no cascade" in capsys.readouterr().err


def test_a_tolerance_of_a_cascade_that_is_not_asked_is_refused(cascade_dir: Path) -> None:
    with pytest.raises(InvalidConfig, match="--max-accuracy-drop .* give --mode cascade, too"):
        evaluate(cascade_dir, max_accuracy_drop=0.01)


def test_the_table_says_over_how_many_classes_the_macro_accuracy_is_the_mean(
    digits_bundle: Path,
) -> None:
    for limit, seen in ((3, False), (None, True)):
        figures = evaluate(digits_bundle, limit=limit)
        assert figures["classes"] == 10
        assert (figures["classes_with_images"] == 10) == seen
        lines = table(figures).splitlines()
        assert lines[1].split() == ["accuracy", "macro", "nll", "ece", "brier"]
        said = [line for line in lines if line.startswith("macro: the mean accuracy of the ")]
        assert len(said) == (not seen)


def test_a_tolerance_is_a_fraction(cascade_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(cascade_dir), "--max-accuracy-drop", "3"]) == 2
    message = "--max-accuracy-drop: expected a number, from 0 to 1, got '3'"
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def novelty_dir(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last snapshot of the digits, which knows what is novel."""
    directory = tmp_path_factory.mktemp("novelty") / "bundle"
    build_bundle(digits_run, directory, ExportConfig(select="last", novelty=True))
    return directory


def test_a_picture_that_has_gone_meanwhile_is_named_and_left_out(
    novelty_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("gone.png", "there.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    with load_engine(novelty_dir) as engine:
        others = find_others(str(tmp_path), engine.bundle, None)
        (tmp_path / "gone.png").unlink()
        assert len(ask_others(engine, others, engine.asked((), 1.0))) == 1
    said = f"left out: {tmp_path}/gone.png: No such file or directory"
    assert said in capfd.readouterr().err


def test_pictures_of_other_things_are_told_apart_by_their_distance(
    novelty_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deep").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    for place, image_HW in enumerate(noise):
        Image.fromarray(image_HW).save(tmp_path / "deep" / f"{place}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("no picture")
    figures = evaluate(novelty_dir, unlike=str(tmp_path), limit=100)
    found = figures["novelty"]
    assert (found["images"], found["own_images"]) == (40, 100)
    assert (found["data"], found["own_data"], found["own_split"]) == (
        str(tmp_path),
        "digits",
        "test",
    )
    assert "left out: " in capfd.readouterr().err
    with load_engine(novelty_dir) as engine:
        asked, record = engine.asked((), 0.1), engine.bundle.novelty
        own_NCHW = sample(bundle_data(engine.bundle), 100).images_NCHW
        own, far = (
            np.array([each.whole().distance for each in engine.submit(list(images), asked=asked)])
            for images in (own_NCHW, noise[:, None])
        )
    assert found["auroc"] == pytest.approx(np.mean(far[:, None] > own))
    for name in ("auroc", "auroc_of_confidence"):
        low, high = found[f"{name}_interval"]
        assert 0 <= low < found[name] < high <= 1
    assert record is not None and record.thresholds
    for share, threshold in zip(found["shares"], record.thresholds, strict=True):
        assert share["false_alarms"] == threshold.false_alarms
        assert share["own"] == pytest.approx((own > threshold.distance).mean())
        assert share["others"] == pytest.approx((far > threshold.distance).mean())
    lines = table(figures).splitlines()
    assert lines[-1].startswith("novel at 10% false alarms: ")
    assert any(line.startswith(f"40 pictures of {tmp_path}: AUROC ") for line in lines)


def test_a_directory_without_pictures_and_a_bundle_that_never_looked_are_refused(
    novelty_dir: Path, digits_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(InvalidData, match=r"holds no picture; passed over: 1 .txt"):
        evaluate(novelty_dir, unlike=str(tmp_path), limit=5)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InvalidData, match="--unlike: none of 1 pictures can be read"):
        evaluate(novelty_dir, unlike=str(tmp_path), limit=5)
    with pytest.raises(InvalidParameter, match="export RUN_DIR --out BUNDLE_DIR --novelty"):
        evaluate(digits_bundle, unlike=str(tmp_path), limit=5)


def test_what_unlike_finds_is_added_to_the_report_which_the_report_command_prints(
    novelty_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(novelty_dir, tmp_path / "bundle"))
    thumbnails = (bundle / "report" / "index.html").read_text().count('<img alt="Image ')
    others = tmp_path / "others"
    others.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    for place, image_HW in enumerate(noise):
        Image.fromarray(image_HW).save(others / f"{place}.png")
    assert (
        main(["evaluate", str(bundle), "--unlike", str(others), "--limit", "10", "--report"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(bundle / "report" / "index.html")
    (found,) = read_figures(bundle).novelty
    assert (found.data, found.images, found.own_images) == (str(others), 10, 10)
    page = Path(lines[-1]).read_text()
    assert page.count(str(others)) == 2 and "None of this is promised" in page
    assert page.count('<img alt="Image ') == thumbnails > 0
    assert main(["report", str(bundle)]) == 0
    said = next(line for line in lines if line.startswith("10 pictures of "))
    assert said in capsys.readouterr().out.splitlines()


def test_a_report_needs_other_pictures_and_a_page_before_anything_is_measured(
    novelty_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(novelty_dir), "--report"]) == 2
    assert "--report shows what --unlike finds; give both" in capsys.readouterr().err
    bundle = Path(shutil.copytree(novelty_dir, tmp_path / "bundle"))
    shutil.rmtree(bundle / "report")
    assert main(["evaluate", str(bundle), "--unlike", "nowhere", "--report"]) == 2
    assert "was exported without a report" in capsys.readouterr().err
