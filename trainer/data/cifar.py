"""CIFAR-10 and CIFAR-100 as their authors published them: binary records, or Python pickles."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.errors import InvalidData
from snapensemble.trainer.data.pickles import read_pickle, uint8_array
from snapensemble.trainer.data.readers import RawData, Split

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_FINE = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab
crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television
tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CIFAR100_CLASSES = tuple(_FINE.split())
_PIXELS = 3 * 32 * 32
_MOST_BYTES = 1 << 30  # seven times the largest official file


@dataclass(frozen=True)
class _Layout:
    """One way the official files lie on the disk."""

    folder: str  # as the archive unpacks; the files may also lie in DIR itself
    train: tuple[str, ...]
    test: str
    names: str
    read_images: "Callable[[Path, _Kind], Split]"
    read_names: "Callable[[Path, _Kind], list[Any]]"


@dataclass(frozen=True)
class _Kind:
    """What differs between the two data sets."""

    title: str
    classes: tuple[str, ...]
    label_bytes: int  # per binary record; the last one counts
    labels_key: str
    names_key: str


def cifar10(directory: Path) -> RawData:
    """CIFAR-10, binary or as pickles, in `directory` or the archive's folder in it."""
    return _read(directory, _CIFAR10, _CIFAR10_LAYOUTS)


def cifar100(directory: Path) -> RawData:
    """CIFAR-100 with its 100 fine labels, in `directory` or the archive's folder in it."""
    return _read(directory, _CIFAR100, _CIFAR100_LAYOUTS)


def _read(directory: Path, kind: _Kind, layouts: tuple[_Layout, ...]) -> RawData:
    place, layout = _find(directory, kind, layouts)
    train = [layout.read_images(place / file, kind) for file in layout.train]
    images_NCHW = np.concatenate([part.images_NCHW for part in train])
    labels_N = np.concatenate([part.labels_N for part in train])
    return RawData(
        _names(place / layout.names, kind, layout),
        mirror_keeps_class=True,
        train=Split(images_NCHW, labels_N),
        test=layout.read_images(place / layout.test, kind),
    )


def _find(directory: Path, kind: _Kind, layouts: tuple[_Layout, ...]) -> tuple[Path, _Layout]:
    """The first place with any of a layout's files; that others are missing is found on reading."""
    for layout in layouts:
        for place in (directory / layout.folder, directory):
            if any((place / file).is_file() for file in (*layout.train, layout.test)):
                return place, layout
    expected = " or ".join(f"{layout.train[0]} (in {layout.folder}/)" for layout in layouts)
    raise InvalidData(
        f"no {kind.title} files at {str(directory)!r}; expected {expected} there, and the others"
    )


def _names(file: Path, kind: _Kind, layout: _Layout) -> tuple[str, ...]:
    """The class names of the file beside the images; without one those of the authors."""
    if not file.exists():
        return kind.classes
    names = layout.read_names(file, kind)
    if len(names) != len(kind.classes) or not all(isinstance(n, str | bytes) for n in names):
        raise InvalidData(f"{file}: found {len(names)} names, expected {len(kind.classes)}")
    try:
        return tuple(n if isinstance(n, str) else n.decode() for n in names)
    except UnicodeDecodeError as error:
        raise InvalidData(f"{file}: the names are not UTF-8: {error}") from error


def _binary_images(file: Path, kind: _Kind) -> Split:
    data = np.frombuffer(_bytes_of(file), dtype=np.uint8)
    record = kind.label_bytes + _PIXELS
    if len(data) == 0 or len(data) % record:
        raise InvalidData(
            f"{file}: {len(data)} bytes, expected a multiple of {record}; "
            "the file is damaged or in another layout"
        )
    records = data.reshape(-1, record)
    labels_N = records[:, kind.label_bytes - 1].astype(np.int64)
    return _split(file, kind, records[:, kind.label_bytes :], labels_N)


def _binary_names(file: Path, kind: _Kind) -> list[bytes]:  # noqa: ARG001 - as its sibling
    return _bytes_of(file).split()


def _pickled_images(file: Path, kind: _Kind) -> Split:
    content = read_pickle(_bytes_of(file), file)
    pixels, labels = uint8_array(content.get("data")), content.get(kind.labels_key)
    if pixels is None or pixels.ndim != 2 or pixels.shape[1] != _PIXELS or not len(pixels):
        raise InvalidData(f"{file}: 'data' is not what was expected, uint8 [images, {_PIXELS}]")
    if not isinstance(labels, list) or not all(type(n) is int and abs(n) < 1e9 for n in labels):
        raise InvalidData(f"{file}: {kind.labels_key!r} is no list of small whole numbers")
    if len(labels) != len(pixels):
        raise InvalidData(f"{file}: found {len(labels)} labels for {len(pixels)} images")
    return _split(file, kind, pixels, np.array(labels, dtype=np.int64))


def _pickled_names(file: Path, kind: _Kind) -> list[Any]:
    names = read_pickle(_bytes_of(file), file).get(kind.names_key)
    if not isinstance(names, list):
        raise InvalidData(f"{file}: {kind.names_key!r} is no list of names")
    return names


def _split(
    file: Path, kind: _Kind, pixels: NDArray[np.uint8], labels_N: NDArray[np.int64]
) -> Split:
    last = len(kind.classes) - 1
    for label in (labels_N.min(), labels_N.max()):
        if not 0 <= label <= last:
            raise InvalidData(f"{file}: found label {label}, expected 0 to {last}")
    return Split(np.ascontiguousarray(pixels).reshape(-1, 3, 32, 32), labels_N)


def _bytes_of(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        if size > _MOST_BYTES:
            raise InvalidData(f"{file}: {size} bytes, expected at most {_MOST_BYTES}")
        if not file.is_file():
            raise InvalidData(f"{file}: expected a file, found something else")
        return file.read_bytes()
    except OSError as error:
        raise InvalidData(f"{file}: {error.strerror or error}; expected a CIFAR file") from error


_CIFAR10 = _Kind("CIFAR-10", CIFAR10_CLASSES, 1, "labels", "label_names")
_CIFAR100 = _Kind("CIFAR-100", CIFAR100_CLASSES, 2, "fine_labels", "fine_label_names")
_BINARY, _PICKLED = (_binary_images, _binary_names), (_pickled_images, _pickled_names)
_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_BATCHES_BIN = tuple(f"{batch}.bin" for batch in _BATCHES)
_CIFAR10_LAYOUTS = (
    _Layout("cifar-10-batches-bin", _BATCHES_BIN, "test_batch.bin", "batches.meta.txt", *_BINARY),
    _Layout("cifar-10-batches-py", _BATCHES, "test_batch", "batches.meta", *_PICKLED),
)
_CIFAR100_LAYOUTS = (
    _Layout("cifar-100-binary", ("train.bin",), "test.bin", "fine_label_names.txt", *_BINARY),
    _Layout("cifar-100-python", ("train",), "test", "meta", *_PICKLED),
)
