"""Data sets by SPEC: arrays of uint8 images, split into training, validation and test.

Shapes: N images, C channels, H height, W width. NumPy only: evaluating a bundle needs no torch.
"""

import collections
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.errors import InvalidConfig, InvalidData
from snapensemble.contracts.files import in_home
from snapensemble.contracts.manifest import MAX_CLASS_NAME, MAX_CLASSES, MOST_NAMED
from snapensemble.contracts.pictures.fit import Fit
from snapensemble.contracts.pixels import MAX_SIDE
from snapensemble.trainer.data import cifar, idx, readers
from snapensemble.trainer.data.aspects import FitChoice
from snapensemble.trainer.data.decoding import MAX_IMAGE_COST
from snapensemble.trainer.data.pictures import read_pictures
from snapensemble.trainer.data.readers import RawData, Split
from snapensemble.trainer.data.sources.arrow import find_hugging_face, find_parquet
from snapensemble.trainer.data.sources.folder import find_folder
from snapensemble.trainer.data.sources.shards import find_shards
from snapensemble.trainer.data.sources.source import Found
from snapensemble.trainer.data.sources.table import find_csv

DEFAULT_IMAGE_SIZE = 64
TEST_STREAM = 1
_ARRAYS: dict[str, Callable[[Path], RawData]] = {
    "cifar10": cifar.cifar10,
    "cifar100": cifar.cifar100,
    "mnist": idx.mnist,
    "fashion-mnist": idx.fashion_mnist,
    "npz": readers.npz,
}
_PICTURES: dict[str, Callable[[Path], Found]] = {
    "csv": find_csv,
    "parquet": find_parquet,
    "hf": find_hugging_face,
    "wds": find_shards,
}
SPECS = (
    "digits, cifar10:DIR, cifar100:DIR, mnist:DIR, fashion-mnist:DIR, npz:FILE, csv:FILE, "
    "parquet:FILE, hf:DIR, wds:PATTERN, or the directory of an image folder"
)


@dataclass(frozen=True)
class Dataset:
    """Three disjoint parts: train teaches, val chooses, test reports."""

    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split | None
    mirror_keeps_class: bool
    brings_test: bool  # false: the test part was drawn from the rest
    bad_images: int = 0  # left out, because they cannot be read
    fit: Fit = "cover"  # how a picture comes into the frame

    def part(self, name: str) -> Split:
        """The part of this name: train, val or test.

        Raises:
            InvalidData: this data set has no test part.
        """
        if (part := self.parts.get(name)) is None:
            raise InvalidData(
                f"this data set has no {name} part (an image folder has one in test/CLASS/*); "
                "ask for --split val, or give --data with one"
            )
        return part

    @property
    def parts(self) -> dict[str, Split]:
        """The parts that there are, by name."""
        test = {} if self.test is None else {"test": self.test}
        return {"train": self.train, "val": self.val, **test}

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image: (C, H, W)."""
        _, channels, height, width = self.train.images_NCHW.shape
        return channels, height, width

    def fingerprint(self) -> str:
        """SHA-256 over the pixels, labels and class names of training and validation."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for split in (self.train, self.val):
            digest.update(repr(split.images_NCHW.shape).encode())
            digest.update(np.ascontiguousarray(split.images_NCHW).data)
            digest.update(split.labels_N.astype("<i8").tobytes())
        return digest.hexdigest()


def load_dataset(
    spec: str,
    *,
    val_fraction: float,
    split_seed: int,
    image_size: int | None = None,
    fit: FitChoice = "cover",
    large_size: int | None = None,
    channels: int = 3,
    max_bad_images: int = 0,
    max_image_cost: float = MAX_IMAGE_COST,
) -> Dataset:
    """Read a data set and split it.

    The split depends on the files and `split_seed` only, never on the training seed, so that
    several runs share one validation split and `evaluate` finds the same test images again.

    Args:
        spec: see `SPECS`.
        val_fraction: the share of each class that validates, where the data has no such part.
        split_seed: decides which images these are.
        image_size: height and width in pixels; of pictures, where 64 is the default.
        fit: how a picture comes into the frame; `auto` looks at their shapes. Images of
            other data have their shape already: it says what a server does, and `auto` is `cover`.
        large_size: the training images have a second version of this height and width, for random
            parts of them; of pictures only, as all that follows.
        channels: 1 or 3.
        max_bad_images: so many pictures that cannot be read are named and left out.
        max_image_cost: what decoding one may cost, in times what a server accepts.

    Raises:
        InvalidConfig: the SPEC is not one, or `image_size` does not apply.
        InvalidData: the data is absent or damaged, or has too few images.
    """
    _refuse_unwritable(spec)
    raw = _named(_read(spec, image_size, fit, large_size, channels, max_bad_images, max_image_cost))
    _refuse_unusable(raw)
    brings_test = raw.train is not None
    if raw.train is None:
        raw = _take_test(raw, split_seed)
    _refuse_small_classes(raw)
    assert raw.train is not None
    train, val = raw.train, raw.val
    if val is None:
        chosen_N = stratified(train.labels_N, val_fraction, split_seed)
        train, val = train.only(~chosen_N), train.only(chosen_N)
    return Dataset(
        raw.classes,
        train,
        val,
        raw.test,
        mirror_keeps_class=raw.mirror_keeps_class,
        brings_test=brings_test,
        bad_images=raw.bad_images,
        fit=raw.fit or ("cover" if fit == "auto" else fit),
    )


def repeated_images(train: Split, val: Split) -> int:
    """How many validation images have the same pixels as some training image, whatever the label.

    Such an image is remembered, not recognised, and makes the validation figures look better.
    """
    known = collections.Counter(map(digest, val.images_NCHW))
    found = known.keys() & set(filter(known.__contains__, map(digest, train.images_NCHW)))
    return sum(known[digest] for digest in found)


def stratified(labels_N: NDArray[np.int64], fraction: float, *seed: int) -> NDArray[np.bool_]:
    """Mark about `fraction` of each class: at least one image, and never all of them.

    Returns:
        A mask of shape N; the same for the same labels, fraction and seed.
    """
    chosen_N = np.zeros(len(labels_N), dtype=bool)
    for label in np.unique(labels_N):
        members = np.flatnonzero(labels_N == label)
        count = min(max(round(len(members) * fraction), 1), len(members) - 1)
        order = np.random.default_rng([*seed, int(label)]).permutation(len(members))
        chosen_N[members[order[:count]]] = True
    return chosen_N


def holds_pictures(spec: str) -> bool:
    """Whether a SPEC names pictures, of which images of any size are made, and no arrays."""
    return spec != "digits" and _divided(spec)[0] not in _ARRAYS


def resolved(spec: str) -> str:
    """The SPEC with its path made absolute, so that it means the same from everywhere."""
    if spec == "digits":
        return spec
    kind, path = _divided(spec)
    return f"{kind}{':' if kind else ''}{os.path.realpath(path)}"


def _divided(spec: str) -> tuple[str, Path]:
    """The kind of data and its place; the kind of a folder is empty."""
    kind, _, rest = spec.partition(":")
    is_kind = kind in (*_ARRAYS, *_PICTURES) and rest
    return (kind, in_home(rest)) if is_kind else ("", in_home(spec))


def digest(image_CHW: NDArray[np.uint8]) -> bytes:
    """What images with the same pixels have in common: 16 bytes."""
    return hashlib.blake2b(np.ascontiguousarray(image_CHW).data, digest_size=16).digest()


def _refuse_unwritable(spec: str) -> None:
    """Raise InvalidData for a place whose name a manifest, which is UTF-8, cannot hold."""
    place = resolved(spec)
    try:
        place.encode()
    except UnicodeEncodeError as error:
        raise InvalidData(
            f"{place}: the name has bytes that are no UTF-8, and run.json could not hold it; "
            "rename it"
        ) from error


def _read(
    spec: str,
    image_size: int | None,
    fit: FitChoice,
    large_size: int | None,
    channels: int,
    max_bad_images: int,
    max_image_cost: float,
) -> RawData:
    kind, path = _divided(spec)
    if not holds_pictures(spec):
        if image_size is not None:
            raise InvalidConfig(f"--image-size applies to pictures, not to the arrays of {spec}")
        return readers.digits() if spec == "digits" else _ARRAYS[kind](path)
    if not kind and not (spec and os.path.exists(path)):  # noqa: PTH110 (a name may be too long)
        raise InvalidData(f"no data at {spec!r}; expected {SPECS}")
    if not kind and not path.is_dir():
        raise InvalidData(f"{spec!r} is a file; expected {SPECS}")
    size = DEFAULT_IMAGE_SIZE if image_size is None else image_size
    _refuse_size(size, size)  # before hours of decoding
    found = _PICTURES.get(kind, find_folder)(path)
    _refuse_names(found.classes)
    if not found.bad:  # a class may lack only pictures that are not there, which are named later
        _refuse_found_few(found)
    return read_pictures(
        found,
        size=size,
        channels=channels,
        fit=fit,
        large_size=large_size,
        max_bad_images=max_bad_images,
        max_image_cost=max_image_cost,
    )


def _named(raw: RawData) -> RawData:
    """The same data; images without a name of their own are called after their place."""
    parts: dict[str, Any] = {
        name: replace(part, names=tuple(f"{name}[{index}]" for index in range(len(part))))
        for name in ("everything", "train", "val", "test")
        if (part := getattr(raw, name)) is not None and part.names is None
    }
    return replace(raw, **parts)


def _refuse_unusable(raw: RawData) -> None:
    """Raise InvalidData for names that a manifest cannot hold and sizes that no graph takes."""
    _refuse_names(raw.classes)
    some = raw.everything or raw.train
    assert some is not None
    _, _, height, width = some.images_NCHW.shape
    _refuse_size(height, width)


def _refuse_names(classes: tuple[str, ...]) -> None:
    if len(classes) < 2:
        raise InvalidData(f"at least two classes are needed, found {list(classes)}")
    twice = [name for name, count in collections.Counter(classes).items() if count > 1]
    if twice:
        raise InvalidData(f"{twice[0]!r} names two classes; expected different names")
    if len(classes) > MAX_CLASSES:
        raise InvalidData(f"{len(classes):,} classes; expected at most {MAX_CLASSES:,}")
    for name in classes:
        if not name.isprintable():
            raise InvalidData(f"class {name!a}: the name cannot be printed; rename it")
        if len(name) > MAX_CLASS_NAME:
            raise InvalidData(
                f"class {name[:40]!r}...: the name has {len(name):,} characters, expected at most "
                f"{MAX_CLASS_NAME:,}; rename it"
            )


def _refuse_size(height: int, width: int) -> None:
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise InvalidData(f"images are {width} x {height} pixels; expected 1 to {MAX_SIDE} a side")


def _take_test(raw: RawData, split_seed: int) -> RawData:
    """Make a share of each class the test part, for data without any parts."""
    assert raw.everything is not None
    _refuse_small_classes(replace(raw, train=raw.everything))
    # A stream of its own, so that test and validation are not drawn by the same numbers.
    chosen_N = stratified(raw.everything.labels_N, raw.test_fraction, split_seed, TEST_STREAM)
    return replace(raw, train=raw.everything.only(~chosen_N), test=raw.everything.only(chosen_N))


def _refuse_small_classes(raw: RawData) -> None:
    assert raw.train is not None
    needed = _needed(is_whole=raw.train is raw.everything, brings_val=raw.val is not None)
    _refuse_few(raw.classes, raw.train.labels_N, needed)


def _refuse_found_few(found: Found) -> None:
    """Refuse before hours of decoding what would be refused after it."""
    teaching = found.parts.get("train") or found.parts["everything"]
    needed = _needed(is_whole="train" not in found.parts, brings_val="val" in found.parts)
    _refuse_few(found.classes, np.array(teaching.labels, np.int64), needed)


def _needed(*, is_whole: bool, brings_val: bool) -> int:
    """How many images each class must have, so that every part that is drawn gets one."""
    return 1 + is_whole + (not brings_val)


def _refuse_few(classes: tuple[str, ...], labels_N: NDArray[np.int64], needed: int) -> None:
    counts_K = np.bincount(labels_N, minlength=len(classes)).tolist()
    few = [each for each in zip(classes, counts_K, strict=True) if each[1] < needed]
    if few:
        (name, count), *others = few
        named = "".join(f", {other!r} {number}" for other, number in others[: MOST_NAMED - 1])
        more = len(few) - MOST_NAMED
        raise InvalidData(
            f"class {name!r} has {count} image{'' if count == 1 else 's'}{named}"
            f"{f' and {more:,} more classes too few' if more > 0 else ''}; at least {needed} "
            "are needed, so that each part of the split has one"
        )
