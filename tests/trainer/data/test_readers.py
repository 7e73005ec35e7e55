from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snapensemble.contracts.errors import InvalidData
from tests.trainer.folders import load


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


def test_names_of_classes_may_be_bytes(tmp_path: Path) -> None:
    file = write_npz(tmp_path / "a.npz", classes=np.array(["nö".encode(), b"yes"]))
    assert load(f"npz:{file}").classes == ("nö", "yes")
    write_npz(file, classes=np.array([b"n\xf6", b"yes"]))
    with pytest.raises(InvalidData, match="the names of classes are not UTF-8"):
        load(f"npz:{file}")
