"""Picture files -> pixels, in several threads, as the server decodes them.

Shapes: C channels, H height, W width.
"""

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.cpu import cpu_budget
from contracts.errors import InvalidImage
from contracts.pixels import decode_image

# One's own files: larger than what a stranger may send to a server.
MAX_TRAINING_PIXELS = 250_000_000
_MOST_WAITING, _MOST_WAITING_BYTES = 1024, 1 << 26


@dataclass(frozen=True)
class Unreadable:
    """A file without pixels."""

    reason: str
    lasting: bool  # its bytes are wrong; otherwise the disk or a permission is


def decode_files(
    files: Sequence[Path], *, size: int, channels: int
) -> Iterator[NDArray[np.uint8] | Unreadable]:
    """Each file's image_CHW, or why there is none, in the order of the files."""

    def decode(file: Path) -> NDArray[np.uint8] | Unreadable:
        try:
            data = file.read_bytes()
        except OSError as error:
            return Unreadable(error.strerror or str(error), lasting=False)
        try:
            return decode_image(
                data,
                channels=channels,
                height=size,
                width=size,
                max_pixels=MAX_TRAINING_PIXELS,
            )
        except InvalidImage as error:
            return Unreadable(str(error), lasting=True)

    # In portions: results wait in memory until the slowest before them is there.
    portion = max(1, min(_MOST_WAITING, _MOST_WAITING_BYTES // (channels * size * size)))
    with warnings.catch_warnings(), ThreadPoolExecutor(cpu_budget()) as pool:
        # Pillow warns of odd metadata (EXIF, TIFF tags) in files whose pixels are fine.
        warnings.filterwarnings("ignore", module="PIL")
        for start in range(0, len(files), portion):
            yield from pool.map(decode, files[start : start + portion])
