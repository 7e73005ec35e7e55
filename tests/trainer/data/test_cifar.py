import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from snapensemble.contracts.errors import InvalidData
from snapensemble.trainer.data.cifar import CIFAR100_CLASSES
from tests.trainer.folders import load
from tests.trainer.pickling import python2_pickle


def write_cifar(directory: Path, per_file: int = 20) -> NDArray[np.uint8]:
    """Six files in the official layout; gives all records."""
    rng = np.random.default_rng(0)
    files = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    records = rng.integers(0, 256, (6, per_file, 3073), dtype=np.uint8)
    records[:, :, 0] = np.arange(per_file) % 10
    for file, part in zip(files, records, strict=True):
        part.tofile(directory / file)
    return records


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


@pytest.mark.parametrize("inner", ["", "cifar-100-binary"])
def test_cifar100_takes_the_fine_label_of_a_record(tmp_path: Path, inner: str) -> None:
    place = tmp_path / inner
    place.mkdir(exist_ok=True)
    records = np.random.default_rng(0).integers(0, 256, (2, 300, 3074), dtype=np.uint8)
    records[:, :, 0], records[:, :, 1] = 7, np.arange(300) % 100
    for file, part in zip(("train.bin", "test.bin"), records, strict=True):
        part.tofile(place / file)
    data = load(f"cifar100:{tmp_path}")
    assert data.classes[:2] == ("apple", "aquarium_fish") and data.classes[99] == "worm"
    test = data.part("test")
    np.testing.assert_array_equal(test.labels_N, records[1, :, 1])
    np.testing.assert_array_equal(test.images_NCHW[7].ravel(), records[1, 7, 2:])
    (place / "fine_label_names.txt").write_text("\n".join(f"n{i}" for i in range(100)) + "\n\n")
    assert load(f"cifar100:{tmp_path}").classes[42] == "n42"
    (place / "fine_label_names.txt").write_text("one two")
    with pytest.raises(InvalidData, match="fine_label_names.txt: found 2 names, expected 100"):
        load(f"cifar100:{tmp_path}")


def test_the_hundred_classes_are_sorted_as_the_authors_sorted_them() -> None:
    assert len(CIFAR100_CLASSES) == 100
    assert list(CIFAR100_CLASSES) == sorted(CIFAR100_CLASSES)


def test_a_label_beyond_the_classes_is_refused(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    data = bytearray((tmp_path / "test_batch.bin").read_bytes())
    data[3073] = 10
    (tmp_path / "test_batch.bin").write_bytes(data)
    with pytest.raises(InvalidData, match=r"test_batch.bin: found label 10, expected 0 to 9"):
        load(f"cifar10:{tmp_path}")


def test_a_file_far_larger_than_the_official_ones_is_not_read(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    os.truncate(tmp_path / "data_batch_1.bin", 3073 << 30)
    with pytest.raises(
        InvalidData, match="data_batch_1.bin: 3299608625152 bytes, expected at most"
    ):
        load(f"cifar10:{tmp_path}")


def test_something_that_is_no_file_is_not_read(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    (tmp_path / "data_batch_2.bin").unlink()
    os.mkfifo(tmp_path / "data_batch_2.bin")
    with pytest.raises(InvalidData, match="data_batch_2.bin: expected a file"):
        load(f"cifar10:{tmp_path}")


@pytest.mark.parametrize("inner", ["", "cifar-10-batches-py"])
def test_cifar10_is_read_from_its_pickles(tmp_path: Path, inner: str) -> None:
    place = tmp_path / inner
    place.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        pixels = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        content = {"data": pixels, "labels": [i % 10 for i in range(20)], "batch_label": name}
        (place / name).write_bytes(python2_pickle(content))
    names = [f"n{i}" for i in range(10)]
    (place / "batches.meta").write_bytes(python2_pickle({"label_names": names}))
    data = load(f"cifar10:{tmp_path}")
    assert data.classes == tuple(names)
    np.testing.assert_array_equal(data.part("test").images_NCHW.reshape(20, -1), pixels)
    assert data.part("test").labels_N.tolist() == [i % 10 for i in range(20)]
    assert len(data.train) + len(data.val) == 100


def write_cifar100_python(place: Path, **changes: Any) -> NDArray[np.uint8]:
    place.mkdir(exist_ok=True, parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (200, 3072), dtype=np.uint8)
    content = {
        "data": pixels,
        "fine_labels": [i % 100 for i in range(200)],
        "coarse_labels": [i % 20 for i in range(200)],
    }
    for name in ("train", "test"):
        (place / name).write_bytes(python2_pickle(content | changes))
    return pixels


@pytest.mark.parametrize("inner", ["", "cifar-100-python"])
def test_cifar100_is_read_from_its_pickles(tmp_path: Path, inner: str) -> None:
    pixels = write_cifar100_python(tmp_path / inner)
    data = load(f"cifar100:{tmp_path}")
    assert data.classes == CIFAR100_CLASSES
    np.testing.assert_array_equal(data.part("test").images_NCHW.reshape(200, -1), pixels)
    assert data.part("test").labels_N.tolist() == [i % 100 for i in range(200)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fine_labels": [0] * 199}, "found 199 labels for 200 images"),
        ({"fine_labels": [*[0] * 199, 100]}, "found label 100, expected 0 to 99"),
        ({"fine_labels": [*[0] * 199, 1 << 9999]}, "no list of small whole numbers"),
        ({"fine_labels": "text"}, "'fine_labels' is no list"),
        ({"data": "text"}, "'data' is not what was expected"),
        ({"data": np.zeros((200, 3071), np.uint8)}, "'data' is not what was expected"),
        ({"data": np.zeros((0, 3072), np.uint8), "fine_labels": []}, "'data' is not what was"),
    ],
)
def test_a_pickle_with_other_content_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_cifar100_python(tmp_path, **changes)
    with pytest.raises(InvalidData, match=f"train: .*{message}"):
        load(f"cifar100:{tmp_path}")


def test_a_malicious_pickle_in_a_data_set_is_refused_without_running_it(tmp_path: Path) -> None:
    write_cifar100_python(tmp_path)
    (tmp_path / "meta").write_bytes(b"cos\nsystem\n(S'touch " + bytes(tmp_path / "ran") + b"'\ntR.")
    with pytest.raises(InvalidData, match=r"meta: found 'os.system' in the pickle"):
        load(f"cifar100:{tmp_path}")
    assert not (tmp_path / "ran").exists()
