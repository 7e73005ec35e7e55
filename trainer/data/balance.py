"""How many images each class has, what to warn of, and how much an image of a class counts.

Shapes: K classes, N images.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.manifest import some_of
from snapensemble.contracts.run import BALANCE_POWERS, Balance
from snapensemble.trainer.data.dataset import Dataset

LISTED = 12  # classes, whose counts one line can hold
UNEQUAL = 10  # times as many images, from which on there is a warning
FEW = 10  # images of a class, below which there is one


def class_counts(labels_N: NDArray[np.int64], classes: int) -> list[int]:
    """The images of each class."""
    return [int(count) for count in np.bincount(labels_N, minlength=classes)]


def class_weights(counts_K: Sequence[int], balance: Balance) -> NDArray[np.float32]:
    """How much an image of each class counts; over all images the mean is 1.

    With `inverse` every class counts the same in sum, with `sqrt` as the root of its images.

    Args:
        counts_K: images of each class, at least one.
        balance: `none` gives ones.
    """
    counts = np.array(counts_K, dtype=np.float64)
    weights_K = counts ** -BALANCE_POWERS[balance]
    scaled_K: NDArray[np.float32] = (weights_K * (counts.sum() / (weights_K @ counts))).astype("f4")
    return scaled_K


def about_classes(dataset: Dataset, balance: Balance) -> Iterator[str]:
    """The lines to be shown before training: counts per class, and warnings.

    Args:
        dataset: as it was divided.
        balance: advice about unequal classes is given only where it is `none`.
    """
    classes = dataset.classes
    counts_K = class_counts(dataset.train.labels_N, len(classes))
    ranked = sorted(zip(counts_K, classes, strict=True))
    (least, rare), (most, common) = ranked[0], ranked[-1]
    if len(classes) <= LISTED:
        each = ", ".join(f"{name} {count:,}" for name, count in zip(classes, counts_K, strict=True))
        yield f"training images per class: {each}"
    else:
        yield (
            f"training images per class: {least:,} ({rare}) to {most:,} ({common}), "
            f"{most / least:.1f} to 1, {len(classes):,} classes"
        )
    if alike := alike_names(classes):
        pairs = [" and ".join(map(repr, group)) for group in alike]
        yield (
            f"warning: {some_of(pairs)} differ in case, spaces or dashes only; if they are one "
            "class, give them one name"
        )
    if most >= UNEQUAL * least and balance == "none":
        yield (
            f"warning: {common!r} has {most / least:.0f} times as many training images as "
            f"{rare!r}; if all classes count the same, export with --class-prior uniform, or train "
            "with --class-balance sqrt or inverse"
        )
    if few := [f"{name} {count}" for count, name in ranked if count < FEW]:
        yield (
            f"warning: fewer than {FEW} training images in {len(few)} of {len(classes)} classes "
            f"({some_of(few)}); the network learns little of them, and their figures say little"
        )
    for part, split in (("validation", dataset.val), ("test", dataset.test)):
        if split is None:
            continue
        counts_K = class_counts(split.labels_N, len(classes))
        absent = [name for name, count in zip(classes, counts_K, strict=True) if not count]
        if absent:  # only where the data brings the part: what is drawn holds each class
            yield (
                f"warning: the {part} part has no image of {len(absent)} of {len(classes)} classes "
                f"({some_of(absent)}), and its figures say nothing of them; add some"
            )


def alike_names(classes: Sequence[str]) -> list[list[str]]:
    """Groups of names that a person may have meant to be the same: `Red rose` and `red_rose`."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        plain = unicodedata.normalize("NFKC", name).casefold()
        groups.setdefault(re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", plain).strip(), []).append(name)
    return [group for group in groups.values() if len(group) > 1]
