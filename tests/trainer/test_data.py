from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from contracts.errors import InvalidConfig, InvalidData
from contracts.pixels import decode_image
from tests.factories import encoded, picture
from trainer.data import Dataset, is_folder, load_dataset, resolved, stratified


def load(spec: str | Path, **options: Any) -> Dataset:
    return load_dataset(str(spec), val_fraction=0.25, split_seed=0, **options)


def make_folder(root: Path, images: dict[str, int], kind: str = "PNG") -> Path:
    """CLASS/* with so many pictures each, all different."""
    for index, (name, count) in enumerate(images.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            data = encoded(picture(100 * index + i, width=20, height=16), kind)
            (root / name / f"{i}.{kind.lower()}").write_bytes(data)
    return root


def rows(images_NCHW: NDArray[np.uint8]) -> set[bytes]:
    return {image.tobytes() for image in images_NCHW}


def write_cifar(directory: Path, per_file: int = 20) -> NDArray[np.uint8]:
    """Six files in the official layout; gives all records."""
    rng = np.random.default_rng(0)
    files = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    records = rng.integers(0, 256, (6, per_file, 3073), dtype=np.uint8)
    records[:, :, 0] = np.arange(per_file) % 10
    for file, part in zip(files, records, strict=True):
        part.tofile(directory / file)
    return records


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


def test_cifar10_is_read_as_its_authors_wrote_it(tmp_path: Path) -> None:
    records = write_cifar(tmp_path)
    data = load(f"cifar10:{tmp_path}")
    assert data.classes[3] == "cat" and data.shape == (3, 32, 32)
    assert data.mirror_keeps_class
    test = data.part("test")
    np.testing.assert_array_equal(test.labels_N, records[5, :, 0])
    np.testing.assert_array_equal(test.images_NCHW[7].ravel(), records[5, 7, 1:])
    assert len(data.train) + len(data.val) == 100


def test_a_damaged_cifar10_file_is_named(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    file = tmp_path / "data_batch_3.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InvalidData, match=r"data_batch_3\.bin: 61459 bytes, expected a multiple"):
        load(f"cifar10:{tmp_path}")
    file.unlink()
    with pytest.raises(InvalidData, match=r"data_batch_3\.bin: No such file"):
        load(f"cifar10:{tmp_path}")


def test_a_folder_with_parts_keeps_them(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"b": 6, "a": 4})
    make_folder(tmp_path / "val", {"a": 2, "b": 1})
    make_folder(tmp_path / "test", {"b": 3})
    data = load(tmp_path, image_size=12)
    assert data.classes == ("a", "b") and data.shape == (3, 12, 12)
    assert [len(data.train), len(data.val), len(data.part("test"))] == [10, 3, 3]
    assert data.part("test").labels_N.tolist() == [1, 1, 1]


def test_a_folder_of_classes_alone_is_split(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 20, "b": 10})
    data = load(tmp_path, image_size=8)
    parts = [rows(data.part(name).images_NCHW) for name in ("train", "val", "test")]
    assert [len(part) for part in parts] == [18, 6, 6]
    assert len(parts[0] | parts[1] | parts[2]) == 30


def test_training_sees_the_pixels_that_serving_will_see(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"a": 2, "b": 2}, "JPEG")
    data = load(tmp_path, image_size=8)
    served = {
        decode_image(file.read_bytes(), channels=3, height=8, width=8).tobytes()
        for file in tmp_path.rglob("*.jpeg")
    }
    assert rows(data.train.images_NCHW) | rows(data.val.images_NCHW) == served


def test_other_files_in_a_folder_are_passed_over(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / ".hidden.png").write_text("x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "a" / ".thumbnails").mkdir()
    (tmp_path / "a" / ".thumbnails" / "0.png").write_bytes(encoded(picture()))
    data = load(tmp_path)
    assert data.classes == ("a", "b")
    assert sum(len(data.part(name)) for name in ("train", "val", "test")) == 10


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "b" / "9.png").write_text("no picture")
    with pytest.raises(InvalidData, match=r"b/9\.png: not an image.*repair or remove"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"a": 5, "b": 1}, "class 'b' has 1 image; at least 3"),
        ({"a": 5, "b": 2}, "class 'b' has 2 images; at least 3"),
        ({"a": 5}, "1 class folder; expected at least two"),
        ({}, "0 class folders"),
    ],
)
def test_a_folder_that_is_too_small_is_refused(
    tmp_path: Path, images: dict[str, int], message: str
) -> None:
    make_folder(tmp_path, images)
    with pytest.raises(InvalidData, match=message):
        load(tmp_path)


def test_a_class_with_one_training_image_is_refused_by_name(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"a": 5, "b": 1})
    with pytest.raises(InvalidData, match="class 'b' has 1 image; at least 2"):
        load(tmp_path)


def test_a_class_that_training_does_not_have_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"a": 5, "b": 5})
    make_folder(tmp_path / "test", {"c": 1})
    with pytest.raises(InvalidData, match="classes that train/ has not: c"):
        load(tmp_path)


@pytest.mark.parametrize("size", [0, 4097, 200_000])
def test_a_size_that_no_graph_takes_is_refused_before_reading(tmp_path: Path, size: int) -> None:
    make_folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / "bad.png").write_text("no picture")
    with pytest.raises(InvalidData, match="expected 1 to 4096 a side"):
        load(tmp_path, image_size=size)


@pytest.mark.parametrize("spec", ["/no/such/place", "cifar10:/no/such/place", "npz:/no/such.npz"])
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
    with pytest.raises(InvalidConfig, match="applies to image folders"):
        load("digits", image_size=16)


def test_a_data_set_without_test_images_says_so(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"a": 5, "b": 5})
    with pytest.raises(InvalidData, match="has no test part"):
        load(tmp_path).part("test")


def write_npz(file: Path, **changes: Any) -> Path:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "x_train": rng.integers(0, 256, (20, 7, 5, 3), dtype=np.uint8),
        "y_train": np.arange(20) % 2,
        "x_test": rng.integers(0, 256, (4, 7, 5, 3), dtype=np.uint8),
        "y_test": np.array([0, 1, 0, 1]),
        "classes": np.array(["no", "yes"]),
    }
    arrays |= changes
    np.savez(file, **{name: value for name, value in arrays.items() if value is not None})
    return file


def test_an_npz_file_is_read_in_every_layout(tmp_path: Path) -> None:
    last = load(f"npz:{write_npz(tmp_path / 'a.npz')}")
    assert last.classes == ("no", "yes") and last.shape == (3, 7, 5)
    with np.load(tmp_path / "a.npz") as content:
        x_train, x_test = content["x_train"], content["x_test"]
    first = load(
        "npz:"
        + str(
            write_npz(
                tmp_path / "b.npz",
                x_train=x_train.transpose(0, 3, 1, 2),
                x_test=x_test.transpose(0, 3, 1, 2),
            )
        )
    )
    np.testing.assert_array_equal(last.train.images_NCHW, first.train.images_NCHW)
    grey = write_npz(tmp_path / "c.npz", x_train=x_train[..., 0], x_test=x_test[..., 0])
    assert load(f"npz:{grey}").shape == (1, 7, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": None}, "has no y_train"),
        ({"x_train": np.zeros((20, 7, 5, 3))}, "float64"),
        ({"y_train": np.zeros(19, dtype=int)}, "same number"),
        ({"y_train": np.full(20, 2)}, "outside 0 to 1"),
        ({"y_train": np.full(20, -1)}, "outside 0 to 1"),
        ({"y_train": np.zeros(20)}, "one integer per image"),
        (
            {
                "classes": np.array(["one"]),
                "y_train": np.zeros(20, int),
                "y_test": np.zeros(4, int),
            },
            "at least two classes",
        ),
        ({"classes": np.array(["one", "one"])}, "different names"),
        ({"classes": np.array(["one", "t\nwo"])}, "cannot be printed"),
        ({"classes": np.array("one")}, "list of names"),
        ({"x_train": np.uint8(1)}, "same number"),
        ({"y_train": np.int64(1)}, "same number"),
        ({"x_train": np.zeros((20, 0, 5, 3), np.uint8)}, "same number"),
        ({"x_train": np.zeros((20, 1, 5000), np.uint8), "x_test": None}, "5000 x 1 pixels"),
        ({"x_train": np.zeros((20, 7, 5, 4), np.uint8)}, "1 or 3 channels"),
        ({"x_test": np.zeros((4, 9, 9, 3), np.uint8)}, "differ in shape"),
        ({"classes": np.array([{"a": 1}, 2], dtype=object)}, "cannot read as .npz"),
    ],
)
def test_a_wrong_npz_file_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = write_npz(tmp_path / "a.npz", **changes)
    with pytest.raises(InvalidData, match=message):
        load(f"npz:{file}")


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK not really")
    np.save(tmp_path / "b.npy", np.zeros(3))
    np.savez_compressed(tmp_path / "c.npz", x_train=np.arange(1000))
    damaged = bytearray((tmp_path / "c.npz").read_bytes())
    damaged[200:260] = bytes(60)
    (tmp_path / "c.npz").write_bytes(damaged)
    for name in ("a.npz", "b.npy", "c.npz"):
        with pytest.raises(InvalidData, match=r"cannot read as \.npz"):
            load(f"npz:{tmp_path / name}")


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


def test_pictures_in_deeper_folders_belong_to_their_class(tmp_path: Path) -> None:
    make_folder(tmp_path / "a", {"2019": 3, "2020": 3})
    make_folder(tmp_path, {"b": 6})
    assert np.bincount(load(tmp_path).train.labels_N).tolist() == [4, 4]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train": 4, "bus": 4})
    assert load(tmp_path).classes == ("bus", "train")


@pytest.mark.parametrize(
    ("spec", "folder"),
    [("digits", False), ("cifar10:x", False), ("npz:x", False), ("x", True), ("digits:x", True)],
)
def test_what_a_spec_means_does_not_depend_on_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, folder: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert is_folder(spec) == folder
    expected = {"digits": "digits", "cifar10:x": f"cifar10:{tmp_path / 'x'}"}
    if spec in expected:
        assert resolved(spec) == expected[spec]
