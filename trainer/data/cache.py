"""The cache of decoded pictures: a data set is decoded once, and its pixels are kept.

An entry is a directory that takes its name last, so it is there whole or not at all:

    KEY/images.npy   the images that can be read, uint8 [N, C, H, W]
    KEY/index.json   which pictures cannot be read, and why

The key covers whatever could change a pixel, so an entry is never out of date, and two processes
that make the same entry make the same bytes. The whole directory may be removed at any time.
"""

import contextlib
import errno
import hashlib
import inspect
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import features

from snapensemble.contracts import pixels
from snapensemble.contracts.errors import InvalidData, InvalidManifest, WriteFailed
from snapensemble.contracts.files import hidden_directory
from snapensemble.contracts.manifest import Record, read_manifest, write_manifest
from snapensemble.contracts.pictures import (
    av1,
    bits,
    boxes,
    cost,
    decode,
    directory,
    fit,
    heif,
    hevc,
    jpeg,
    limits,
    others,
    png,
    tiff,
)
from snapensemble.contracts.pictures.fit import Fit
from snapensemble.contracts.process import say_once
from snapensemble.trainer.data.decoding import Unreadable, decode_pictures
from snapensemble.trainer.data.memmap import (
    CACHE_VARIABLE,
    cache_directory,
    open_rows,
    refuse_without_room,
    write_rows,
)
from snapensemble.trainer.data.sources.source import Source

# The modules whose source decides what a pixel is, or whether there is one.
_MADE_BY = (
    pixels, av1, bits, boxes, cost, decode, directory, fit, heif, hevc, jpeg, limits, others, png,
    tiff,
)  # fmt: skip


class CacheIndex(Record):
    """What is known of an entry beside its pixels."""

    format: Literal["decoded-images"] = "decoded-images"
    format_version: Literal[1] = 1
    images_mtime_ns: int  # of images.npy; another time means that it was changed since
    bad: tuple[tuple[int, str], ...]  # (index of the picture, reason)
    costly: int  # pictures that a server would refuse


@dataclass(frozen=True)
class Decoded:
    """The images of the pictures that can be read."""

    images_NCHW: NDArray[np.uint8]
    bad: dict[int, str]  # index of the picture -> reason
    costly: int = 0  # pictures that a server would refuse


@dataclass(frozen=True)
class Pictures:
    """Pictures to be decoded, and the size and channels of their images."""

    source: Source
    size: int  # height and width, pixels
    channels: int
    max_image_cost: float  # a multiple of what a server accepts
    fit: Fit = "cover"

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one image: (C, H, W)."""
        return self.channels, self.size, self.size

    @property
    def nbytes(self) -> int:
        """The bytes of all images."""
        return len(self.source) * self.channels * self.size * self.size

    def decode(self, costly: list[int]) -> Iterator[NDArray[np.uint8] | Unreadable]:
        """Each image, or why there is none; `costly` collects those that a server would refuse."""
        return decode_pictures(
            self.source,
            size=self.size,
            channels=self.channels,
            fit=self.fit,
            max_image_cost=self.max_image_cost,
            on_costly=costly.append,
        )


def decoded(pictures: Pictures) -> Decoded:
    """The images, from the cache if it has them, and mapped from it if it can be written.

    Raises:
        InvalidData: there is no cache, and the images do not fit into memory.
    """
    try:
        entry = cache_directory() / cache_key(pictures)
        return _opened(entry, pictures) or _made(entry, pictures)
    except (OSError, WriteFailed) as error:
        say_once(
            f"decoded images are not kept: {error}; to keep them, "
            f"set {CACHE_VARIABLE} to a directory with free space"
        )
        return _in_memory(pictures)


def cache_key(pictures: Pictures) -> str:
    """64 hexadecimal digits that change with the pictures, the size, and how pixels are made."""
    decoder = [
        *(hashlib.sha256(inspect.getsource(made_by).encode()).hexdigest() for made_by in _MADE_BY),
        PIL.__version__,
        *(features.version(name) for name in ("libjpeg_turbo", "webp", "libtiff", "avif")),
        pictures.max_image_cost,
        pictures.fit,
    ]
    digest = hashlib.sha256()
    for part in (decoder, pictures.shape):
        digest.update(json.dumps(part).encode() + b"\n")
    for index in range(len(pictures.source)):
        digest.update(json.dumps(pictures.source.stamp(index)).encode() + b"\n")
    return digest.hexdigest()


def _opened(entry: Path, pictures: Pictures) -> Decoded | None:
    """The images of an entry; None if it is absent or damaged."""
    try:
        index = read_manifest(entry / "index.json", CacheIndex, made_by="snapensemble train")
        images_NCHW = open_rows(entry / "images.npy")
        mtime_ns = (entry / "images.npy").stat().st_mtime_ns
        owners = {each.stat().st_uid for each in (entry, *entry.iterdir())}
    except (InvalidManifest, OSError, ValueError, EOFError, OverflowError):
        return None
    if owners != {os.getuid()}:  # in a shared cache somebody else's pixels are not trusted
        return None
    bad = dict(index.bad)
    shape = (len(pictures.source) - len(bad), *pictures.shape)
    whole = images_NCHW.shape == shape and images_NCHW.dtype == np.uint8
    if not whole or mtime_ns != index.images_mtime_ns:
        return None
    return Decoded(images_NCHW, bad, index.costly)


def _made(entry: Path, pictures: Pictures) -> Decoded:
    """Decode the pictures into a new entry.

    Raises:
        OSError: the entry cannot be written.
    """
    with hidden_directory(entry.parent, ".new-") as temporary:
        refuse_without_room(entry.parent, pictures.nbytes)
        bad: dict[int, Unreadable] = {}
        costly: list[int] = []
        images = temporary / "images.npy"
        good = _without_bad(pictures, bad, costly)
        if write_rows(images, good, len(pictures.source), pictures.shape) == 0:
            return Decoded(_empty(pictures, 0), _reasons(bad))
        index = CacheIndex(
            images_mtime_ns=images.stat().st_mtime_ns,
            bad=tuple(_reasons(bad).items()),
            costly=len(costly),
        )
        write_manifest(temporary / "index.json", index)
        made = _opened(temporary, pictures)
        if made is None:
            raise OSError(errno.EIO, "what was written cannot be read back", str(temporary))
        if all(each.lasting for each in bad.values()):
            _publish(temporary, entry, pictures)
        return made  # its map outlives the name


def _publish(temporary: Path, entry: Path, pictures: Pictures) -> None:
    """Give an entry its name, unless another process has made it meanwhile."""
    with contextlib.suppress(OSError):
        if entry.exists() and _opened(entry, pictures) is None:
            shutil.rmtree(entry)
        temporary.rename(entry)


def _in_memory(pictures: Pictures) -> Decoded:
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # Splitting copies: the whole, its parts, and the parts of these are there at once.
    if 3 * pictures.nbytes > available:
        raise InvalidData(
            f"the decoded images need 3 x {pictures.nbytes / 1e9:.1f} GB of "
            f"memory, this machine has {available / 1e9:.1f} GB; choose a smaller --image-size, "
            f"or set {CACHE_VARIABLE} to a directory with free space"
        )
    bad: dict[int, Unreadable] = {}
    costly: list[int] = []
    images_NCHW = _empty(pictures, len(pictures.source))
    count = 0
    for image_CHW in _without_bad(pictures, bad, costly):
        images_NCHW[count] = image_CHW
        count += 1
    return Decoded(images_NCHW[:count], _reasons(bad), len(costly))


def _empty(pictures: Pictures, count: int) -> NDArray[np.uint8]:
    return np.empty((count, *pictures.shape), dtype=np.uint8)


def _without_bad(
    pictures: Pictures, bad: dict[int, Unreadable], costly: list[int]
) -> Iterator[NDArray[np.uint8]]:
    """The images; pictures without are noted in `bad`, those too costly to serve in `costly`."""
    for index, image_CHW in enumerate(pictures.decode(costly)):
        if isinstance(image_CHW, Unreadable):
            bad[index] = image_CHW
        else:
            yield image_CHW


def _reasons(bad: dict[int, Unreadable]) -> dict[int, str]:
    return {index: each.reason for index, each in bad.items()}
