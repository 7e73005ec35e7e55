import errno
import shutil
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.trainer.augmentation.batch import Augmentation
from snapensemble.trainer.fine_tuning import features as module
from snapensemble.trainer.fine_tuning.features import features, folded, views
from snapensemble.trainer.loop import Augmented


class Counting(nn.Module):
    """A trunk that counts the images it is shown."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU6())
        self.seen = 0

    @property
    def conv(self) -> nn.Conv2d:
        layer = self.layers[0]
        assert isinstance(layer, nn.Conv2d)
        return layer

    @property
    def norm(self) -> nn.BatchNorm2d:
        layer = self.layers[1]
        assert isinstance(layer, nn.BatchNorm2d)
        return layer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        out: torch.Tensor = self.layers(images.float() / 255)
        return out


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SNAPENSEMBLE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def trunk(monkeypatch: pytest.MonkeyPatch) -> Counting:
    trunk = Counting()
    monkeypatch.setattr(module, "folded", lambda network: network)  # a copy would count for itself
    return trunk


def pictures(count: int = 70, seed: int = 0) -> Augmented:
    images_NCHW = torch.from_numpy(
        np.random.default_rng(seed).integers(0, 256, (count, 3, 12, 12), np.uint8)
    )
    return Augmented(
        images_NCHW=images_NCHW,
        augmentation=Augmentation(flip=True, min_area=0.4, size=(8, 8)),
        fill_C=torch.zeros(3, dtype=torch.uint8),
    )


def test_each_view_is_what_the_trunk_makes_of_another_part_of_the_picture(
    cache: Path, trunk: Counting
) -> None:
    shown = pictures()
    found = views(trunk, shown, count=3, seed=5).features_VN
    assert found.shape == (3, 70, 4, 3, 3) and found.dtype == torch.float16
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])
    whole = features(trunk, shown.images_NCHW)
    assert whole.dtype == torch.float32 and whole.shape == (70, 4, 5, 5)


def test_features_are_computed_once_and_found_again(cache: Path, trunk: Counting) -> None:
    first = views(trunk, pictures(), count=2, seed=5).features_VN
    seen = trunk.seen
    again = views(trunk, pictures(), count=2, seed=5).features_VN
    assert trunk.seen == seen + 1  # one image, for the shape
    assert torch.equal(first, again)
    assert len(list(cache.iterdir())) == 1


def test_whatever_could_change_a_number_makes_other_features(cache: Path, trunk: Counting) -> None:
    views(trunk, pictures(), count=2, seed=5)
    other_weights = Counting()
    torch.nn.init.ones_(other_weights.conv.weight)
    for network, shown, count, seed in (
        (trunk, pictures(seed=1), 2, 5),
        (trunk, pictures(), 3, 5),
        (trunk, pictures(), 2, 6),
        (other_weights, pictures(), 2, 5),
    ):
        before = len(list(cache.iterdir()))
        views(network, shown, count=count, seed=seed)
        assert len(list(cache.iterdir())) == before + 1


def test_a_file_that_was_cut_off_is_computed_anew(cache: Path, trunk: Counting) -> None:
    first = views(trunk, pictures(), count=2, seed=5).features_VN.clone()
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    assert torch.equal(views(trunk, pictures(), count=2, seed=5).features_VN, first)


def test_without_a_place_to_keep_them_features_stay_in_memory(
    tmp_path: Path,
    trunk: Counting,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SNAPENSEMBLE_CACHE", str(tmp_path / "file"))
    assert views(trunk, pictures(), count=2, seed=5).features_VN.shape == (2, 70, 4, 3, 3)
    assert "features are not kept" in capsys.readouterr().err


def test_a_disk_that_fills_while_features_are_written_costs_no_row(
    cache: Path, trunk: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = views(trunk, pictures(), count=2, seed=5).features_VN.clone()
    (file,) = cache.iterdir()
    file.unlink()

    def full_after_half(
        _: Path, rows: Iterable[np.ndarray[Any, Any]], most: int, __: object
    ) -> int:
        assert len(list(islice(rows, most // 2))) == most // 2
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_rows", full_after_half)
    assert torch.equal(views(trunk, pictures(), count=2, seed=5).features_VN, expected)
    assert not list(cache.iterdir())


def test_a_disk_that_is_too_small_is_noticed_before_features_are_computed(
    cache: Path,
    trunk: Counting,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    needed = 2 * 70 * 4 * 3 * 3 * 2  # views, pictures, features, bytes
    monkeypatch.setattr("shutil.disk_usage", lambda _: mock.Mock(free=needed - 1))
    views(trunk, pictures(), count=2, seed=1)
    assert trunk.seen == 1 + 2 * 70  # one to know the shape, and each view once
    assert "features are not kept: " in capsys.readouterr().err and not list(cache.iterdir())
    monkeypatch.setattr("shutil.disk_usage", lambda _: mock.Mock(free=needed))
    views(trunk, pictures(), count=2, seed=1)
    assert len(list(cache.iterdir())) == 1


def test_what_a_killed_process_has_left_of_features_is_removed(
    cache: Path, trunk: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[Path] = []

    def killed(file: Path, *_: object) -> int:
        left.append(cache / f"{file.parent.name}left")  # as if nobody had cleaned up
        shutil.copytree(file.parent, left[0])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_rows", killed)
        with pytest.raises(KeyboardInterrupt):
            views(trunk, pictures(), count=1, seed=1)
    assert list(cache.iterdir()) == left
    views(trunk, pictures(), count=1, seed=1)
    (file,) = cache.iterdir()
    assert file.name.startswith("features-")


def test_weights_that_give_no_finite_numbers_are_refused(cache: Path, trunk: Counting) -> None:
    torch.nn.init.constant_(trunk.conv.weight, float("nan"))
    with pytest.raises(InvalidConfig, match="no finite numbers"):
        views(trunk, pictures(), count=1, seed=0)
    assert not list(cache.iterdir())


def test_folding_batch_normalisation_into_convolutions_changes_no_answer() -> None:
    trunk = Counting().eval()
    for statistic, low, high in (
        (trunk.norm.running_mean, -1, 1),
        (trunk.norm.running_var, 0.1, 3),
    ):
        assert statistic is not None
        torch.nn.init.uniform_(statistic, low, high)
    images_NCHW = pictures().images_NCHW
    torch.testing.assert_close(
        features(folded(trunk), images_NCHW), features(trunk, images_NCHW), atol=1e-5, rtol=1e-4
    )
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in trunk.modules())  # as it was
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded(trunk).modules())
