"""Which pictures `evaluate --unlike` takes for those of other things."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from snapensemble.contracts.bundle import BundleManifest
from snapensemble.contracts.errors import InvalidData
from snapensemble.unlike import Others, as_taken, find_others, spread
from tests.factories import CONTRACT
from tests.report.bundle.bundles import answers, make_manifest


@pytest.fixture(scope="module")
def bundle() -> BundleManifest:
    return make_manifest(answers(20))


def decoded(others: Others) -> list[NDArray[np.uint8]]:
    """The images as the engine makes them for the members."""
    pictures = [read() for _, read in others]
    return [
        CONTRACT.decode(each) if isinstance(each, bytes) else np.asarray(each) for each in pictures
    ]


def test_every_picture_of_a_directory_counts_whatever_folder_it_is_in(
    bundle: BundleManifest, tmp_path: Path
) -> None:
    for place in ("a.png", "train/one/b.png", "val/two/c.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 5)).save(tmp_path / place)
    found = find_others(str(tmp_path), bundle, None)
    assert [Path(name).name for name, _ in found] == ["a.png", "b.png", "c.png"]


def test_a_data_set_gives_its_test_part_and_one_without_its_validation_part(
    bundle: BundleManifest, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    images_NHWC = rng.integers(0, 256, (8, *CONTRACT.shape[1:], 3), dtype=np.uint8)
    labels = np.array([0, 1] * 4)
    classes = np.array(["cat", "dog"])
    parts: dict[str, Any] = {"x_train": images_NHWC[:4], "y_train": labels[:4], "classes": classes}
    np.savez(tmp_path / "with.npz", **parts, x_test=images_NHWC[6:], y_test=labels[6:])
    found = find_others(f"npz:{tmp_path / 'with.npz'}", bundle, None)
    assert [name for name, _ in found] == ["test[0]", "test[1]"]
    for image_CHW, image_HWC in zip(decoded(found), images_NHWC[6:], strict=True):
        assert (image_CHW == image_HWC.transpose(2, 0, 1)).all()
    np.savez(tmp_path / "without.npz", **parts, x_val=images_NHWC[4:6], y_val=labels[4:6])
    found = find_others(f"npz:{tmp_path / 'without.npz'}", bundle, None)
    assert [name for name, _ in found] == ["val[0]", "val[1]"]


def test_images_of_another_size_or_colour_become_what_the_members_take(
    bundle: BundleManifest,
) -> None:
    (_, *shape) = CONTRACT.shape
    found = find_others("digits", bundle, 7)
    assert len(found) == 7
    assert [image.shape for image in decoded(found)] == [CONTRACT.shape] * 7
    right = np.zeros(CONTRACT.shape, np.uint8)
    assert as_taken(right, CONTRACT.shape) is right
    assert isinstance(as_taken(np.zeros((1, *shape), np.uint8), CONTRACT.shape), bytes)


def test_no_more_than_the_limit_are_taken_evenly_spread() -> None:
    assert spread(10, 3).tolist() == [0, 3, 6]
    assert spread(2, 5).tolist() == spread(2, None).tolist() == [0, 1]


@pytest.mark.parametrize("spec", ["nowhere", "npz:nowhere.npz", "cifar10:nowhere"])
def test_data_that_are_not_there_are_named_with_the_option(
    bundle: BundleManifest, spec: str
) -> None:
    with pytest.raises(InvalidData, match="nowhere") as caught:
        find_others(spec, bundle, None)
    assert "given as --unlike" in caught.value.__notes__[0]


def test_an_empty_directory_is_refused_with_what_was_passed_over(
    bundle: BundleManifest, tmp_path: Path
) -> None:
    with pytest.raises(InvalidData, match="holds no picture$"):
        find_others(str(tmp_path), bundle, None)
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(InvalidData, match=r"holds no picture; passed over: 1 \.txt"):
        find_others(str(tmp_path), bundle, None)
