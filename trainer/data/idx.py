"""MNIST and Fashion-MNIST in the IDX files of their authors, packed with gzip or not.

An IDX file is a magic number, a count per dimension (big-endian, 32 bits), and the bytes.
"""

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.errors import InvalidData
from snapensemble.contracts.pixels import MAX_SIDE
from snapensemble.trainer.data.readers import RawData, Split

MNIST_CLASSES = tuple("0123456789")
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
# 0x08 says bytes, the last digit the number of dimensions.
_IMAGES_MAGIC, _LABELS_MAGIC = 0x0803, 0x0801
_GZIP_MAGIC = b"\x1f\x8b"
_MOST_BYTES = 1 << 30  # twenty times the official files


def mnist(directory: Path) -> RawData:
    """MNIST's handwritten digits, never mirrored: a mirrored digit is another one, or none."""
    return _read(directory, MNIST_CLASSES, mirror_keeps_class=False)


def fashion_mnist(directory: Path) -> RawData:
    """Fashion-MNIST's pieces of clothing."""
    return _read(directory, FASHION_CLASSES, mirror_keeps_class=True)


def read_idx(file: Path, magic: int) -> NDArray[np.uint8]:
    """The array of an IDX file, its shape as the header says.

    Whatever the file unpacks to, no more is read than the header promises.

    Args:
        file: packed with gzip or not, by its content.
        magic: what its first four bytes must be.

    Raises:
        InvalidData: the file is absent, of another kind, truncated, too long, or damaged.
    """
    try:
        with file.open("rb") as stream:
            packed = stream.read(2) == _GZIP_MAGIC
            stream.seek(0)
            if packed:
                with gzip.GzipFile(fileobj=stream) as unpacked:
                    return _parse(file, unpacked, magic)
            return _parse(file, stream, magic)
    except EOFError as error:
        raise InvalidData(f"{file}: truncated, expected more of the gzip stream") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InvalidData(f"{file}: damaged, expected a whole gzip stream: {error}") from error
    except OSError as error:
        raise InvalidData(f"{file}: {error.strerror or error}; expected an IDX file") from error


def _read(directory: Path, classes: tuple[str, ...], *, mirror_keeps_class: bool) -> RawData:
    train = _part(directory, "train", len(classes))
    test = _part(directory, "t10k", len(classes))
    shapes = [part.images_NCHW.shape[2:] for part in (train, test)]
    if shapes[0] != shapes[1]:
        raise InvalidData(
            f"{directory}: training images are {shapes[0]}, test images {shapes[1]} "
            "(height, width); expected the same"
        )
    return RawData(classes, mirror_keeps_class, train=train, test=test)


def _part(directory: Path, part: str, K: int) -> Split:
    images_file = _find(directory, f"{part}-images", "idx3-ubyte")
    labels_file = _find(directory, f"{part}-labels", "idx1-ubyte")
    images_NHW = read_idx(images_file, _IMAGES_MAGIC)
    labels_N = read_idx(labels_file, _LABELS_MAGIC)
    if len(images_NHW) != len(labels_N):
        raise InvalidData(
            f"{labels_file}: found {len(labels_N)} labels, "
            f"expected {len(images_NHW)}, as many as images in {images_file.name}"
        )
    if labels_N.max() >= K:
        raise InvalidData(f"{labels_file}: found label {labels_N.max()}, expected 0 to {K - 1}")
    return Split(images_NHW[:, None], labels_N.astype(np.int64))


def _find(directory: Path, stem: str, kind: str) -> Path:
    names = [f"{stem}{mark}{kind}{packed}" for packed in ("", ".gz") for mark in "-."]
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise InvalidData(f"no {names[0]} at {str(directory)!r}; expected one of {', '.join(names)}")


def _parse(file: Path, stream: BinaryIO | gzip.GzipFile, magic: int) -> NDArray[np.uint8]:
    dimensions = magic & 0xFF
    header = _up_to(stream, 4 * (1 + dimensions))
    found, *shape = np.frombuffer(header[: len(header) // 4 * 4], dtype=">u4").tolist() or [0]
    if len(header) >= 4 and found != magic:
        raise InvalidData(f"{file}: found the magic number {found:#010x}, expected {magic:#010x}")
    if len(shape) < dimensions:
        raise InvalidData(
            f"{file}: truncated, found {len(header)} bytes, expected a header of "
            f"{4 * (1 + dimensions)}"
        )
    size = math.prod(shape)
    if not size or size > _MOST_BYTES or max(shape[1:], default=1) > MAX_SIDE:
        raise InvalidData(
            f"{file}: the header says {' x '.join(map(str, shape))} bytes, expected 1 to "
            f"{_MOST_BYTES} and images of at most {MAX_SIDE} pixels a side"
        )
    # One byte more, to see whether the file ends; of a gzip stream this also checks the checksum.
    data = _up_to(stream, size + 1)
    if len(data) != size:
        problem = "truncated, found" if len(data) < size else "too long, found more than"
        raise InvalidData(
            f"{file}: {problem} {min(len(data), size)} bytes after the header, expected {size}"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _up_to(stream: BinaryIO | gzip.GzipFile, size: int) -> bytes:
    """At most `size` bytes; memory grows with what is there, not with `size`."""
    buffer = io.BytesIO()
    while (left := size - buffer.tell()) and (chunk := stream.read(min(left, 1 << 20))):
        buffer.write(chunk)
    return buffer.getvalue()
