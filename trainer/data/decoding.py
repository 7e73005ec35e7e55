"""Decode pictures in several threads, as the server decodes them.

Shapes: C channels, H height, W width.
"""

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.cpu import cpu_budget
from snapensemble.contracts.errors import InvalidImage
from snapensemble.contracts.pictures.cost import picture_cost
from snapensemble.contracts.pictures.fit import Fit
from snapensemble.contracts.pixels import SERVER_LIMITS, decode_image
from snapensemble.trainer.data.sources.source import Source

# The user's own files may cost this many times what a server accepts from a stranger.
MAX_IMAGE_COST = 6.25
_MOST_PENDING, _MOST_PENDING_BYTES = 1024, 1 << 26


@dataclass(frozen=True)
class Unreadable:
    """A picture without pixels."""

    reason: str
    lasting: bool  # its bytes are wrong, and not the disk or a permission


def decode_pictures(
    source: Source,
    *,
    size: int,
    channels: int,
    fit: Fit = "cover",
    max_image_cost: float = MAX_IMAGE_COST,
    on_costly: Callable[[int], None] = lambda _: None,
) -> Iterator[NDArray[np.uint8] | Unreadable]:
    """Each picture's image_CHW, or why there is none, in the order of the source.

    Args:
        source: gives the encoded pictures.
        size: height and width of the images, pixels.
        channels: 1 or 3.
        fit: how a picture comes into its square.
        max_image_cost: what a picture may cost, as a multiple of what a server accepts.
        on_costly: called, from several threads, with the index of each picture that a server would
            refuse.
    """
    limits = SERVER_LIMITS.times(max_image_cost)

    def decode(index: int) -> NDArray[np.uint8] | Unreadable:
        try:
            data = source.read(index)
        except InvalidImage as error:
            return Unreadable(str(error), lasting=True)
        except OSError as error:
            return Unreadable(error.strerror or str(error), lasting=False)
        try:
            image_CHW = decode_image(
                data,
                channels=channels,
                height=size,
                width=size,
                fit=fit,
                limits=limits,
            )
        except InvalidImage as error:
            return Unreadable(str(error), lasting=True)
        try:
            picture_cost(data, SERVER_LIMITS, width=size, height=size, fit=fit)
        except InvalidImage:
            on_costly(index)
        return image_CHW

    # Pictures go in portions: results wait in memory until the slowest before them is there.
    portion = max(1, min(_MOST_PENDING, _MOST_PENDING_BYTES // (channels * size * size)))
    with warnings.catch_warnings(), ThreadPoolExecutor(cpu_budget()) as pool:
        # Pillow warns of odd metadata (EXIF, TIFF tags) in files whose pixels are fine.
        warnings.filterwarnings("ignore", module="PIL")
        for start in range(0, len(source), portion):
            yield from pool.map(decode, range(start, min(start + portion, len(source))))
