from pathlib import Path

import numpy as np
import pytest
import torch

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.novelty import directions, distances, fit_thresholds
from snapensemble.contracts.run import read_run
from snapensemble.export.bundle import build_bundle
from snapensemble.export.calibration import split_validation
from snapensemble.export.candidates import pooled
from snapensemble.export.cli import describe_novelty
from snapensemble.export.config import ExportConfig
from snapensemble.export.novelty import MOST_IMAGES, OF_EACH_CLASS, looked_at
from snapensemble.serving.inference.engine import load_engine
from snapensemble.trainer.data.dataset import Dataset, load_dataset
from snapensemble.trainer.recording.snapshots import load_model

CONFIG = ExportConfig(select="last", members=2, novelty=True, report=False)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", val_fraction=0.1, split_seed=0)


@pytest.fixture(scope="module")
def bundle_dir(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("novelty") / "bundle"
    build_bundle(digits_run, out, CONFIG)
    return out


def features_NC(run_dir: Path, images_NCHW: np.ndarray) -> np.ndarray:
    """What the last layer of the run's last network reads, by torch."""
    run = read_run(run_dir)
    network = load_model(run_dir, run, run.snapshots[-1])
    with torch.inference_mode():
        maps = network.features(network.normalised(torch.from_numpy(images_NCHW)))  # type: ignore[operator]
    means_NC: np.ndarray = maps.mean(dim=(2, 3)).numpy()
    return means_NC


def test_directions_come_from_what_taught_and_thresholds_from_what_chose_nothing(
    bundle_dir: Path, digits_run: Path, digits: Dataset
) -> None:
    taught_NC = features_NC(digits_run, digits.train.images_NCHW)
    directions_KC = directions(taught_NC, digits.train.labels_N, 10)
    calibration_N = split_validation(pooled([digits_run]).labels_N).calibration_N
    held_out_NC = features_NC(digits_run, digits.val.images_NCHW[calibration_N])
    expected = fit_thresholds(distances(held_out_NC, directions_KC))
    assert expected.thresholds
    with load_engine(bundle_dir) as engine:
        record = engine.bundle.novelty
        assert record is not None and record.images == expected.images == len(calibration_N)
        for found, threshold in zip(record.thresholds, expected.thresholds, strict=True):
            assert found.false_alarms == threshold.false_alarms
            assert found.distance == pytest.approx(threshold.distance, abs=1e-4)
        assert digits.test is not None
        images_NCHW = digits.test.images_NCHW[:200]
        asked = engine.asked((), 0.1)
        answers = [each.whole() for each in engine.submit(list(images_NCHW), asked=asked)]
    wanted_N = distances(features_NC(digits_run, images_NCHW), directions_KC)
    found_N = np.array([each.distance for each in answers], dtype=np.float64)
    np.testing.assert_allclose(found_N, wanted_N, atol=1e-4)


def test_every_class_has_a_direction_however_rare_it_is() -> None:
    labels_N = np.concatenate([np.zeros(50_000, int), np.full(3, 1), np.full(40, 2)])
    counts_K = np.bincount(labels_N[looked_at(labels_N)])
    assert counts_K[0] <= MOST_IMAGES and counts_K[1] == 3 and counts_K[2] >= OF_EACH_CLASS
    assert (looked_at(labels_N[-2_000:]) == np.arange(2_000)).all()


def test_the_export_says_which_false_alarms_are_promised_or_that_none_are() -> None:
    assert describe_novelty(fit_thresholds(np.linspace(0, 1, 60))) == (
        "novelty: false alarms of 2%, 5%, 10% are promised, from the 60 images that chose nothing"
    )
    assert len(fit_thresholds(np.zeros(9)).thresholds) == 1
    assert describe_novelty(fit_thresholds(np.zeros(8))) == (
        "novelty: nothing can be promised from the 8 images that chose nothing, so nobody can ask "
        "for it; 9 would do for false alarms of 10%"
    )


def test_noise_is_further_away_than_digits(bundle_dir: Path, digits: Dataset) -> None:
    assert digits.test is not None
    known = list(digits.test.images_NCHW[:100])
    noise = list(np.random.default_rng(0).integers(0, 256, (100, 1, 8, 8), dtype=np.uint8))
    with load_engine(bundle_dir) as engine:
        asked = engine.asked((), 0.1)
        far = [each.whole().distance or 0.0 for each in engine.submit(known + noise, asked=asked)]
    assert np.median(far[100:]) > np.quantile(far[:100], 0.9)


def test_members_without_maps_are_refused_before_anything_is_read(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "snapensemble.export.members.Ensemble.unexplained", property(lambda self: ["cycle-00"])
    )
    with pytest.raises(InvalidConfig, match="--novelty: cycle-00 do not end in a mean"):
        build_bundle(digits_run, tmp_path / "bundle", CONFIG)
    assert not (tmp_path / "bundle").exists()
