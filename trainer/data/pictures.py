"""Pictures that were found, with their labels, as uint8 images [N, C, H, W]."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from snapensemble.contracts.errors import InvalidData
from snapensemble.contracts.process import say
from snapensemble.trainer.data.aspects import FitChoice, choose_fit
from snapensemble.trainer.data.cache import Pictures, decoded
from snapensemble.trainer.data.decoding import MAX_IMAGE_COST
from snapensemble.trainer.data.readers import RawData, Split
from snapensemble.trainer.data.sources.source import Chosen, Found, Labelled, Source

MOST_NAMED = 20


@dataclass(frozen=True)
class _Read:
    """The images of a part, and the lines that name unreadable pictures."""

    split: Split
    bad: list[str]
    costly: int


def read_pictures(
    found: Found,
    *,
    size: int,
    channels: int,
    fit: FitChoice = "cover",
    large_size: int | None = None,
    max_bad_images: int = 0,
    max_image_cost: float = MAX_IMAGE_COST,
) -> RawData:
    """Decode the pictures as the server decodes them, once: see `trainer.data.cache`.

    Args:
        found: the pictures and their labels.
        size: height and width of the images, pixels.
        channels: 1 or 3.
        fit: how a picture comes into its square; `auto` looks at the shapes of those that teach.
        large_size: height and width of a second version of what teaches, pixels; None: none.
        max_bad_images: so many pictures that cannot be read are named and left out.
        max_image_cost: what decoding one may cost, as a multiple of what a server accepts.

    Raises:
        InvalidData: more unreadable pictures than allowed, or a part of them only.
    """
    if fit == "auto":
        teaching = found.parts.get("train") or found.parts["everything"]
        fit, why = choose_fit(teaching.source, max_image_cost)
        say(why)
    parts = {
        name: _read_part(
            found.place,
            labelled,
            partial(Pictures, channels=channels, max_image_cost=max_image_cost, fit=fit),
            size,
            large_size if name in ("everything", "train") else None,
        )
        for name, labelled in found.parts.items()
    }
    bad = [*found.bad, *(line for part in parts.values() for line in part.bad)]
    _refuse_bad(bad, max_bad_images)
    if costly := sum(part.costly for part in parts.values()):
        total = sum(len(part.split) for part in parts.values())
        say(f"a server with its default limits would refuse {costly:,} of these {total:,} pictures")
    for name, part in parts.items():
        if not len(part.split):
            what = found.place if name == "everything" else f"the {name} part of {found.place}"
            raise InvalidData(f"{what}: none of its {len(part.bad)} images can be read")
    splits = {name: part.split for name, part in parts.items()}
    return RawData(
        found.classes,
        mirror_keeps_class=True,
        everything=splits.get("everything"),
        train=splits.get("train"),
        val=splits.get("val"),
        test=splits.get("test"),
        bad_images=len(bad),
        fit=fit,
    )


def _read_part(
    place: str,
    labelled: Labelled,
    pictures: Callable[[Source, int], Pictures],
    size: int,
    large_size: int | None,
) -> _Read:
    source = labelled.source
    images = decoded(pictures(source, size))
    good = [index for index in range(len(source)) if index not in images.bad]
    large_NCHW = None
    if large_size is not None:
        large = decoded(pictures(Chosen(source, good), large_size))
        if large.bad:  # it was read a moment ago
            index, reason = next(iter(large.bad.items()))
            raise InvalidData(
                f"{source.name(good[index])}: at {large_size} pixels a side: {reason}"
            )
        large_NCHW = large.images_NCHW
    names = tuple(source.name(index).removeprefix(f"{place}/") for index in good)
    return _Read(
        Split(images.images_NCHW, np.array(labelled.labels, np.int64)[good], large_NCHW, names),
        [f"{source.name(index)}: {reason}" for index, reason in images.bad.items()],
        images.costly,
    )


def _refuse_bad(bad: list[str], allowed: int) -> None:
    """Name the pictures that cannot be read; too many end the reading."""
    if not bad:
        return
    more = len(bad) - MOST_NAMED
    lines = "\n".join([*bad[:MOST_NAMED], *([f"and {more} more"] if more > 0 else [])])
    if len(bad) <= allowed:
        say(f"left out, cannot be read: {len(bad)} of at most {allowed}\n{lines}")
    elif len(bad) == 1:
        raise InvalidData(f"{lines}; repair or remove this file, or train with --max-bad-images 1")
    else:
        raise InvalidData(
            f"{len(bad)} images cannot be read, at most {allowed} may be:\n{lines}\n"
            f"repair or remove these files, or train with --max-bad-images {len(bad)}"
        )
