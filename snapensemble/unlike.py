"""Pictures of other things, for `evaluate --unlike`: any directory of pictures, or a data set.

Shapes: N images, C channels, H height, W width.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.bundle import BundleManifest
from snapensemble.contracts.errors import InvalidData, InvalidImage
from snapensemble.contracts.files import in_home, read_picture
from snapensemble.contracts.pictures.walk import Walk
from snapensemble.contracts.process import say
from snapensemble.pictures import encoded
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.inference.explain import Asked
from snapensemble.serving.inference.request import MemberOutputs, Picture
from snapensemble.trainer.data.dataset import holds_pictures, load_dataset

AT_ONCE = 256  # pictures whose bytes are in memory
Others: TypeAlias = list[tuple[str, Callable[[], Picture]]]  # names, and what reads each


def spread(images: int, limit: int | None) -> NDArray[np.intp]:
    """The places of at most `limit` images, evenly spread: a folder's come sorted by class."""
    count = min(images, limit or images)
    return np.arange(count) * images // count if count else np.arange(0)


def find_others(spec: str, bundle: BundleManifest, limit: int | None) -> Others:
    """The pictures of a directory, whatever is in it, or of the test part of a data set.

    A data set without a test part gives its validation part. Its classes do not matter.

    Args:
        spec: a directory, or what `load_dataset` takes.
        bundle: says what images its members take; others become so, as a client's picture would.
        limit: at most so many, evenly spread.

    Raises:
        InvalidData: there is no such data, or no picture in it.
    """
    directory = in_home(spec)
    if spec != "digits" and directory.is_dir():
        walk = Walk()
        files = walk.pictures(directory)
        if not files:
            found = f"; {walk.summary()}" if walk.passed_over else ""
            raise InvalidData(f"--unlike: {spec} holds no picture{found}")
        return [(str(files[i]), partial(read_picture, files[i])) for i in spread(len(files), limit)]
    try:
        dataset = load_dataset(
            spec,
            val_fraction=bundle.data.val_fraction,
            split_seed=bundle.data.split_seed,
            image_size=bundle.image.height if holds_pictures(spec) else None,
            fit=bundle.image.fit,
            channels=bundle.image.channels,
            max_bad_images=sys.maxsize,
            max_image_cost=bundle.data.max_image_cost,
        )
    except InvalidData as error:
        error.add_note("given as --unlike, which may be any directory of pictures, too")
        raise
    part = dataset.parts.get("test", dataset.val)
    names = part.names or [f"image {place}" for place in range(len(part))]
    return [
        (names[i], partial(as_taken, part.images_NCHW[i], bundle.image.shape))
        for i in spread(len(part), limit)
    ]


def as_taken(image_CHW: NDArray[np.uint8], shape: tuple[int, int, int]) -> Picture:
    """An image that has the members' shape already, or else a picture that is made to fit."""
    return image_CHW if image_CHW.shape == shape else encoded(image_CHW.transpose(1, 2, 0))


def ask_others(engine: Engine, others: Others, asked: Asked | None) -> list[MemberOutputs]:
    """What every member says of the others; pictures that cannot be read are named and left out.

    Args:
        engine: of the bundle.
        others: are read a few at a time.
        asked: for their distances.

    Raises:
        InvalidData: none of them can be read.
    """
    found: list[MemberOutputs] = []
    for start in range(0, len(others), AT_ONCE):
        there = list(_there(others[start : start + AT_ONCE]))
        answers = engine.submit([picture for _, picture in there], asked=asked)
        for (name, _), answer in zip(there, answers, strict=True):
            try:
                found.append(answer.whole())
            except InvalidImage as error:
                say(f"left out: {name}: {error}")
    if not found:
        raise InvalidData(f"--unlike: none of {len(others):,} pictures can be read")
    return found


def _there(others: Others) -> Iterator[tuple[str, Picture]]:
    """The names and pictures of those that the disk gives; others are named and left out."""
    for name, read in others:
        try:
            yield name, read()
        except OSError as error:
            say(f"left out: {name}: {error.strerror}")
