import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from snapensemble.contracts.errors import InvalidData
from snapensemble.trainer.data.idx import read_idx
from tests.trainer.folders import load


def idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def write_mnist(
    directory: Path, mark: str = "-", packed: bool = False
) -> dict[str, NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 40), ("t10k", 20)):
        arrays[f"{part}-images{mark}idx3-ubyte"] = rng.integers(0, 256, (count, 6, 5), np.uint8)
        arrays[f"{part}-labels{mark}idx1-ubyte"] = (np.arange(count) % 10).astype(np.uint8)
    for name, array in arrays.items():
        data = idx(array)
        file = directory / (f"{name}.gz" if packed else name)
        file.write_bytes(gzip.compress(data) if packed else data)
    return arrays


@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("packed", [False, True])
def test_mnist_is_read_packed_or_not(tmp_path: Path, mark: str, packed: bool) -> None:
    arrays = write_mnist(tmp_path, mark, packed)
    data = load(f"mnist:{tmp_path}")
    assert data.classes == tuple("0123456789") and data.shape == (1, 6, 5)
    assert not data.mirror_keeps_class and data.brings_test
    test = data.part("test")
    np.testing.assert_array_equal(test.images_NCHW[:, 0], arrays[f"t10k-images{mark}idx3-ubyte"])
    np.testing.assert_array_equal(test.labels_N, arrays[f"t10k-labels{mark}idx1-ubyte"])
    assert len(data.train) + len(data.val) == 40


def test_fashion_mnist_has_names_and_may_be_mirrored(tmp_path: Path) -> None:
    write_mnist(tmp_path, packed=True)
    data = load(f"fashion-mnist:{tmp_path}")
    assert data.classes[0] == "T-shirt/top" and data.classes[9] == "Ankle boot"
    assert data.mirror_keeps_class


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(InvalidData, match="no t10k-labels-idx1-ubyte at .*expected one of"):
        load(f"mnist:{tmp_path}")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated, found 0 bytes, expected a header of 16"),
        (idx(np.zeros((2, 2, 2), np.uint8))[:15], "truncated, found 15 bytes, expected a header"),
        (idx(np.zeros(40, np.uint8)), "magic number 0x00000801, expected 0x00000803"),
        (b"\x00\x00\x0d\x03" + bytes(100), "magic number 0x00000d03, expected 0x00000803"),
        (idx(np.ones((40, 6, 5), np.uint8))[:-1], "truncated, found 1199 bytes .* expected 1200"),
        (idx(np.ones((40, 6, 5), np.uint8)) + b"x", "too long, found more than 1200 bytes"),
        (idx(np.ones((39, 6, 5), np.uint8)), "found 40 labels, expected 39, as many as images"),
        (idx(np.ones((40, 6, 6), np.uint8)), "training images are .6, 6., test images .6, 5."),
        (idx(np.ones((0, 6, 5), np.uint8)), "header says 0 x 6 x 5"),
        (struct.pack(">4I", 0x803, *[2**32 - 1] * 3), "header says 4294967295 x 4294967295"),
        (struct.pack(">4I", 0x803, 2**32 - 1, 1, 1), "header says 4294967295 x 1 x 1 bytes"),
        (struct.pack(">4I", 0x803, 1, 1, 4097) + bytes(4097), "at most 4096 pixels a side"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_wrong_image_file_is_refused(
    tmp_path: Path, data: bytes, message: str, packed: bool
) -> None:
    write_mnist(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(InvalidData, match=message) as refusal:
        load(f"mnist:{tmp_path}")
    assert str(tmp_path) in str(refusal.value)


def test_a_label_that_is_no_digit_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.full(40, 10, np.uint8)))
    with pytest.raises(
        InvalidData, match="train-labels-idx1-ubyte: found label 10, expected 0 to 9"
    ):
        load(f"mnist:{tmp_path}")


def test_a_gzip_bomb_is_read_no_further_than_its_header_promises(tmp_path: Path) -> None:
    file = tmp_path / "bomb.gz"
    bomb = gzip.compress(idx(np.zeros(10, np.uint8)))
    # Each further stream unpacks to 64 MiB; the last is damaged, and nobody gets that far.
    file.write_bytes(bomb + gzip.compress(bytes(1 << 26)) * 3 + b"\x1f\x8bdamaged")
    with pytest.raises(InvalidData, match="too long, found more than 10 bytes"):
        read_idx(file, 0x0801)


def test_a_gzip_stream_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(idx(np.zeros(1000, np.uint8))))
    data[-6] ^= 1
    (tmp_path / "a.gz").write_bytes(data)
    with pytest.raises(InvalidData, match=r"a.gz: damaged, expected a whole gzip stream: CRC"):
        read_idx(tmp_path / "a.gz", 0x0801)


def test_a_gzip_stream_that_cannot_be_unpacked_is_refused(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(idx(np.zeros(1000, np.uint8))))
    data[10] = 0xFF  # a kind of block that deflate does not have
    (tmp_path / "a.gz").write_bytes(data)
    with pytest.raises(InvalidData, match=r"a.gz: damaged, .* invalid block type"):
        read_idx(tmp_path / "a.gz", 0x0801)


PACKED = gzip.compress(idx(np.random.default_rng(0).integers(0, 256, 300, np.uint8)))


@given(st.integers(0, len(PACKED) - 1), st.integers(1, 255), st.booleans())
def test_a_damaged_gzip_stream_never_breaks(
    tmp_path_factory: pytest.TempPathFactory, at: int, change: int, cut: bool
) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged.gz"
    data = bytearray(PACKED)
    data[at] ^= change
    file.write_bytes(data[:at] if cut else data)
    try:
        array = read_idx(file, 0x0801)
    except InvalidData as refusal:
        assert "damaged.gz: " in str(refusal)
    else:  # gzip keeps a name and a time that no checksum covers
        assert not cut and at < 10 and len(array) == 300
