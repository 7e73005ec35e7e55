"""Files of each kind -> arrays of uint8 images [N, C, H, W] and labels."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.cpu import cpu_budget
from contracts.errors import InvalidData, InvalidImage
from contracts.pixels import SUFFIXES, decode_image

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
# One's own files: larger than what a stranger may send to a server.
MAX_TRAINING_PIXELS = 250_000_000
_CIFAR_RECORD = 1 + 3 * 32 * 32


@dataclass(frozen=True)
class Split:
    """Images and their labels, in the same order."""

    images_NCHW: NDArray[np.uint8]
    labels_N: NDArray[np.int64]

    def only(self, chosen_N: NDArray[np.bool_]) -> "Split":
        """The images where the mask is true."""
        return Split(self.images_NCHW[chosen_N], self.labels_N[chosen_N])

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


def digits() -> RawData:
    """scikit-learn's 1,797 handwritten digits, 8 x 8, grey values 0 to 16 scaled to 0 to 255.

    Half of them test, as in scikit-learn's own example: with fewer, a handful of mistakes would
    decide every comparison.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images_N8x8 = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    everything = Split(images_N8x8[:, None], bunch.target.astype(np.int64))
    names = tuple(str(name) for name in bunch.target_names)
    return RawData(names, mirror_keeps_class=False, everything=everything, test_fraction=0.5)


def cifar10(directory: Path) -> RawData:
    """CIFAR-10 in its official binary layout.

    Args:
        directory: holds data_batch_1..5.bin and test_batch.bin, itself or in
            cifar-10-batches-bin/.
    """
    inner = directory / "cifar-10-batches-bin"
    directory = inner if inner.is_dir() else directory
    if not directory.is_dir():
        raise InvalidData(
            f"no data at {str(directory)!r}; expected the CIFAR-10 binary files there"
        )
    train = [_cifar_file(directory / f"data_batch_{i}.bin") for i in range(1, 6)]
    images_NCHW = np.concatenate([part.images_NCHW for part in train])
    labels_N = np.concatenate([part.labels_N for part in train])
    return RawData(
        CIFAR10_CLASSES,
        mirror_keeps_class=True,
        train=Split(images_NCHW, labels_N),
        test=_cifar_file(directory / "test_batch.bin"),
    )


def npz(file: Path) -> RawData:
    """One .npz file: x_train y_train x_test y_test classes, and x_val y_val if there are any.

    Images are uint8, [N, H, W], [N, H, W, C] or [N, C, H, W] with C 1 or 3.
    """
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except Exception as error:  # NumPy and zipfile raise a dozen types on damaged files
        raise InvalidData(f"{file}: cannot read as .npz: {error}") from error
    missing = {"x_train", "y_train", "classes"} - arrays.keys()
    if missing:
        raise InvalidData(f"{file}: has no {', '.join(sorted(missing))}; found {sorted(arrays)}")
    if arrays["classes"].ndim != 1:
        raise InvalidData(f"{file}: classes must be a list of names")
    classes = tuple(str(name) for name in arrays["classes"])
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


def image_folder(directory: Path, *, size: int, channels: int) -> RawData:
    """train/CLASS/* with optional val/ and test/, or CLASS/* alone.

    Each file is decoded as the server decodes it. Files whose names do not end as a picture's are
    passed over; a picture that cannot be read ends the reading with its name.

    Args:
        directory: the folder.
        size: height and width of the images, pixels.
        channels: 1 or 3.
    """
    has_parts = any(d.is_dir() for d in directory.glob("train/*"))
    root = directory / "train" if has_parts else directory
    classes = tuple(sorted(d.name for d in root.iterdir() if d.is_dir() and _visible(d)))
    if len(classes) < 2:
        raise InvalidData(
            f"{root} has {len(classes)} class folder{'' if len(classes) == 1 else 's'}; "
            "expected at least two, one per class, with the images inside"
        )
    if not has_parts:
        return RawData(classes, True, everything=_folder_part(root, classes, size, channels))
    parts = {
        name: _folder_part(directory / name, classes, size, channels)
        for name in ("train", "val", "test")
        if (directory / name).is_dir()
    }
    return RawData(
        classes, True, train=parts["train"], val=parts.get("val"), test=parts.get("test")
    )


def _cifar_file(file: Path) -> Split:
    try:
        data = np.fromfile(file, dtype=np.uint8)
    except OSError as error:
        raise InvalidData(f"{file}: {error.strerror or error}; expected a CIFAR-10 file") from error
    if len(data) == 0 or len(data) % _CIFAR_RECORD:
        raise InvalidData(
            f"{file}: {len(data)} bytes, expected a multiple of {_CIFAR_RECORD}; "
            "the file is damaged or in another layout"
        )
    records = data.reshape(-1, _CIFAR_RECORD)
    labels_N = records[:, 0].astype(np.int64)
    if labels_N.max() >= len(CIFAR10_CLASSES):
        raise InvalidData(f"{file}: found label {labels_N.max()}, expected 0 to 9")
    return Split(np.ascontiguousarray(records[:, 1:]).reshape(-1, 3, 32, 32), labels_N)


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


def _folder_part(root: Path, classes: tuple[str, ...], size: int, channels: int) -> Split:
    unknown = sorted(
        d.name for d in root.iterdir() if d.is_dir() and _visible(d) and d.name not in classes
    )
    if unknown:
        raise InvalidData(f"{root} has classes that train/ has not: {', '.join(unknown[:5])}")
    files = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((root / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES and _visible(path, root) and path.is_file()
    ]
    if not files:
        raise InvalidData(f"{root} holds no images; expected CLASS/* with {', '.join(SUFFIXES)}")
    _refuse_more_than_memory(root, len(files) * channels * size * size)

    def decode(path: Path) -> NDArray[np.uint8]:
        try:
            return decode_image(
                path.read_bytes(),
                channels=channels,
                height=size,
                width=size,
                max_pixels=MAX_TRAINING_PIXELS,
            )
        except (InvalidImage, OSError) as error:
            raise InvalidData(f"{path}: {error}; repair or remove this file") from error

    images_NCHW = np.empty((len(files), channels, size, size), dtype=np.uint8)
    with warnings.catch_warnings(), ThreadPoolExecutor(cpu_budget()) as pool:
        # Pillow warns of odd metadata (EXIF, TIFF tags) in files whose pixels are fine.
        warnings.filterwarnings("ignore", module="PIL")
        for row, image_CHW in enumerate(pool.map(decode, [path for path, _ in files])):
            images_NCHW[row] = image_CHW
    return Split(images_NCHW, np.array([label for _, label in files], dtype=np.int64))


def _visible(path: Path, root: Path | None = None) -> bool:
    """Not hidden, and below `root` in no hidden folder: .thumbnails, .ipynb_checkpoints."""
    parts = path.relative_to(root).parts if root else (path.name,)
    return not any(part.startswith(".") for part in parts)


def _refuse_more_than_memory(root: Path, needed: int) -> None:
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # Splitting copies: the whole, its parts, and the parts of these are there at once.
    if 3 * needed > available:
        raise InvalidData(
            f"{root}: the decoded images need 3 x {needed / 1e9:.1f} GB, this machine has "
            f"{available / 1e9:.1f} GB; choose a smaller --image-size"
        )
