"""What every reader gives, and the two short readers: the embedded digits and .npz files."""

import math
import zipfile
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.errors import InvalidData
from snapensemble.contracts.pictures.fit import Fit
from snapensemble.trainer.data.memmap import take_rows

# Deflate reaches a thousand on zeros; pictures and labels stay far below.
MAX_EXPANSION = 200
SMALL_ARRAY = 2**28  # bytes; up to here any expansion is accepted
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
NPZ_NAMES = {f"{axis}_{part}" for axis in "xy" for part in ("train", "val", "test")} | {"classes"}


@dataclass(frozen=True)
class Split:
    """Images and their labels, in the same order.

    `large_NCHW` has the same pictures at the size that random parts of them are cut from, and
    `names` says where each is: the path in a folder, or its place in an array.
    """

    images_NCHW: NDArray[np.uint8]
    labels_N: NDArray[np.int64]
    large_NCHW: NDArray[np.uint8] | None = None
    names: tuple[str, ...] | None = None

    def only(self, chosen_N: NDArray[np.bool_]) -> "Split":
        """The images where the mask is true."""
        large_NCHW = None if self.large_NCHW is None else take_rows(self.large_NCHW, chosen_N)
        names = None if self.names is None else tuple(compress(self.names, chosen_N))
        images_NCHW = take_rows(self.images_NCHW, chosen_N)
        return Split(images_NCHW, self.labels_N[chosen_N], large_NCHW, names)

    def __len__(self) -> int:
        return len(self.labels_N)


@dataclass(frozen=True)
class RawData:
    """What a reader found: either `everything` in one piece, or `train` with the other parts."""

    classes: tuple[str, ...]
    mirror_keeps_class: bool
    everything: Split | None = None
    train: Split | None = None
    val: Split | None = None
    test: Split | None = None
    test_fraction: float = 0.2  # of `everything`
    bad_images: int = 0  # left out, because they cannot be read
    fit: Fit | None = None  # how pictures came into their frame; None: they had its shape


def digits() -> RawData:
    """scikit-learn's 1,797 handwritten digits, 8 x 8, grey values 0 to 16 scaled to 0 to 255.

    Half of them are the test part, as in scikit-learn's own example: with fewer, a handful of
    mistakes would decide every comparison.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images_N8x8 = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    everything = Split(images_N8x8[:, None], bunch.target.astype(np.int64))
    names = tuple(str(name) for name in bunch.target_names)
    return RawData(names, mirror_keeps_class=False, everything=everything, test_fraction=0.5)


def npz(file: Path) -> RawData:
    """Read an .npz file: x_train y_train x_test y_test classes, and x_val y_val if there are any.

    Images are uint8, [N, H, W], [N, H, W, C] or [N, C, H, W] with C 1 or 3.
    """
    try:
        with zipfile.ZipFile(file) as content:
            arrays = {
                name: _npz_array(content, part)
                for part in content.infolist()
                if (name := part.filename.removesuffix(".npy")) in NPZ_NAMES
            }
    except Exception as error:  # NumPy and zipfile raise a dozen types on damaged files
        raise InvalidData(f"{file}: cannot read as .npz: {error}") from error
    missing = {"x_train", "y_train", "classes"} - arrays.keys()
    if missing:
        raise InvalidData(f"{file}: has no {', '.join(sorted(missing))}; found {sorted(arrays)}")
    if arrays["classes"].ndim != 1:
        raise InvalidData(f"{file}: classes must be a list of names")
    classes = _class_names(file, arrays["classes"])
    parts = {
        part: _npz_part(file, arrays, part, len(classes))
        for part in ("train", "val", "test")
        if f"x_{part}" in arrays
    }
    shapes = {split.images_NCHW.shape[1:] for split in parts.values()}
    if len(shapes) > 1:
        raise InvalidData(f"{file}: the parts' images differ in shape: {sorted(shapes)}")
    return RawData(
        classes, False, train=parts["train"], val=parts.get("val"), test=parts.get("test")
    )


def _npz_array(content: zipfile.ZipFile, part: zipfile.ZipInfo) -> NDArray[np.generic]:
    """Read one array, after a check that it has as many bytes as its header asks memory for.

    Raises:
        ValueError: it has more or fewer bytes, or expands more than pictures ever do.
    """
    if part.file_size > MAX_EXPANSION * part.compress_size + SMALL_ARRAY:
        raise ValueError(
            f"{part.filename} would expand {part.compress_size:,} bytes to {part.file_size:,}, "
            f"more than {MAX_EXPANSION}-fold; keep it without compression (numpy.savez)"
        )
    with content.open(part) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"{part.filename}: version {version} of the format")
        shape, _, dtype = _HEADERS[version](stream)
        found = part.file_size - stream.tell()
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != found:
        raise ValueError(
            f"{part.filename}: its header says {dtype} {shape}, and {found:,} bytes follow"
        )
    with content.open(part) as stream:
        array: NDArray[np.generic] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _class_names(file: Path, names: NDArray[np.generic]) -> tuple[str, ...]:
    """The names as texts; those of the type bytes are UTF-8."""
    try:
        return tuple(
            name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist()
        )
    except UnicodeDecodeError as error:
        raise InvalidData(f"{file}: the names of classes are not UTF-8: {error}") from error


def _npz_part(file: Path, arrays: dict[str, NDArray[np.generic]], part: str, K: int) -> Split:
    images, labels = arrays[f"x_{part}"], arrays.get(f"y_{part}")
    if labels is None or np.shape(labels)[:1] != np.shape(images)[:1] or not images.size:
        raise InvalidData(f"{file}: x_{part} and y_{part} must have the same number, at least 1")
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise InvalidData(
            f"{file}: x_{part} is {images.dtype} {images.shape}; expected uint8 "
            "[N, H, W], [N, H, W, C] or [N, C, H, W]"
        )
    labels_N = labels.reshape(len(labels), -1)[:, 0]
    if labels.size != len(labels) or not np.issubdtype(labels_N.dtype, np.integer):
        raise InvalidData(f"{file}: y_{part} must be one integer per image")
    if labels_N.min() < 0 or labels_N.max() >= K:
        raise InvalidData(f"{file}: y_{part} has labels outside 0 to {K - 1}")
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.shape[1] not in (1, 3):
        raise InvalidData(f"{file}: x_{part} has shape {images.shape}; expected 1 or 3 channels")
    pixels: NDArray[np.uint8] = np.ascontiguousarray(images, dtype=np.uint8)
    return Split(pixels, labels_N.astype(np.int64))
