from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.errors import InvalidConfig, InvalidData
from snapensemble.trainer.data.dataset import (
    holds_pictures,
    load_dataset,
    repeated_images,
    resolved,
    stratified,
)
from snapensemble.trainer.data.readers import Split
from tests.trainer.folders import load, make_folder


def test_digits_are_split_without_overlap_and_with_every_class() -> None:
    data = load("digits")
    assert data.test is not None
    parts = (data.train, data.val, data.test)
    assert sum(map(len, parts)) == 1797
    for part in parts:
        assert set(part.labels_N.tolist()) == set(range(10))
    assert data.shape == (1, 8, 8)
    assert data.train.images_NCHW.max() == 255
    assert not data.mirror_keeps_class


def test_the_test_part_does_not_depend_on_the_validation_fraction() -> None:
    one, two = (
        load_dataset("digits", val_fraction=f, split_seed=0).part("test") for f in (0.1, 0.3)
    )
    np.testing.assert_array_equal(one.images_NCHW, two.images_NCHW)


def test_another_split_seed_gives_another_split() -> None:
    one, two = (load_dataset("digits", val_fraction=0.1, split_seed=s) for s in (0, 1))
    assert not np.array_equal(one.val.images_NCHW, two.val.images_NCHW)
    assert one.fingerprint() != two.fingerprint()
    assert one.fingerprint() == load_dataset("digits", val_fraction=0.1, split_seed=0).fingerprint()


@pytest.mark.parametrize("size", [0, 4097, 200_000])
def test_a_size_that_no_graph_takes_is_refused_before_reading(tmp_path: Path, size: int) -> None:
    make_folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / "bad.png").write_text("no picture")
    with pytest.raises(InvalidData, match="expected 1 to 4096 a side"):
        load(tmp_path, image_size=size)


@pytest.mark.parametrize(
    "spec",
    [
        "/no/such/place",
        *(f"{kind}:/no/such/place" for kind in ("cifar10", "cifar100", "mnist", "fashion-mnist")),
        "npz:/no/such.npz",
        *(f"{kind}:/no/such/place" for kind in ("csv", "hf", "parquet", "wds")),
    ],
)
def test_data_that_is_not_there_is_said_so(spec: str) -> None:
    with pytest.raises(InvalidData, match="no/such"):
        load(spec)


def test_a_spec_that_is_none_is_explained(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="expected digits, cifar10:DIR, cifar100:DIR"):
        load("cifar")
    (tmp_path / "file").touch()
    with pytest.raises(InvalidData, match="is a file; expected digits"):
        load(tmp_path / "file")


def test_an_image_size_for_arrays_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="applies to pictures, not to the arrays of digits"):
        load("digits", image_size=16)


@given(
    counts=st.lists(st.integers(2, 40), min_size=2, max_size=5),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 100),
)
def test_every_class_is_on_both_sides_in_about_its_share(
    counts: list[int], fraction: float, seed: int
) -> None:
    labels_N = np.repeat(np.arange(len(counts)), counts)
    chosen_N = stratified(labels_N, fraction, seed)
    for label, count in enumerate(counts):
        taken = int(chosen_N[labels_N == label].sum())
        assert 1 <= taken <= count - 1
        assert abs(taken - count * fraction) <= 1
    np.testing.assert_array_equal(chosen_N, stratified(labels_N, fraction, seed))


@pytest.mark.parametrize(
    ("spec", "place", "pictures"),
    [
        ("digits", "digits", False),
        *((f"{kind}:x", f"{kind}:HERE/x", False) for kind in ("cifar10", "cifar100", "npz")),
        *((f"{kind}:x", f"{kind}:HERE/x", False) for kind in ("mnist", "fashion-mnist")),
        *((f"{kind}:x", f"{kind}:HERE/x", True) for kind in ("csv", "parquet", "hf", "wds")),
        *((folder, f"HERE/{folder}", True) for folder in ("x", "mnist", "mnist:", "digits:x")),
    ],
)
def test_what_a_spec_means_does_not_depend_on_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, place: str, pictures: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "mnist", "mnist:x", "csv:x"):
        (tmp_path / name).mkdir()
    assert holds_pictures(spec) == pictures
    assert resolved(spec) == place.replace("HERE", str(tmp_path))


def split_of(*values: int) -> Split:
    images_NCHW = np.zeros((len(values), 1, 2, 2), dtype=np.uint8)
    images_NCHW[:, 0, 1, 1] = values
    return Split(images_NCHW, np.arange(len(values)))


def test_validation_images_among_the_training_images_are_counted() -> None:
    assert repeated_images(split_of(1, 2, 3, 3), split_of(3, 4, 3, 1)) == 3
    assert repeated_images(split_of(1, 2), split_of(3, 4, 3)) == 0


def test_the_digits_repeat_none_of_their_images() -> None:
    data = load("digits")
    assert repeated_images(data.train, data.val) == 0
    assert repeated_images(data.val, data.val) == len(data.val)


def test_a_name_that_no_manifest_holds_is_refused_before_training(tmp_path: Path) -> None:
    place = make_folder(tmp_path / "photos\udcff", {"a": 5, "b": 5})
    (tmp_path / "link").symlink_to(place)
    for spec in (place, tmp_path / "link"):
        with pytest.raises(InvalidData, match="bytes that are no UTF-8"):
            load(spec)
    make_folder(tmp_path / "long", {"a": 5})
    rows = "".join(f"a/{i}.png,{'b' * 1_001 if i % 2 else 'a'}\n" for i in range(5))
    (tmp_path / "long" / "labels.csv").write_text(f"path,label\n{rows}")
    with pytest.raises(InvalidData, match="has 1,001 characters, expected at most 1,000"):
        load(f"csv:{tmp_path / 'long' / 'labels.csv'}")


@pytest.mark.parametrize("spec", ["", "~nobody-is-called-so/x", "x" * 300])
def test_a_place_that_cannot_be_is_not_there(spec: str) -> None:
    with pytest.raises(InvalidData, match="no data at"):
        load(spec)
