"""Images that need not fit into memory: arrays in files, read through a memory map.

The maps are private: torch takes them without a warning, and nothing written reaches the files.
Shapes: N images, C channels, H height, W width.
"""

import errno
import math
import mmap
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

CACHE_VARIABLE = "SNAPENSEMBLE_CACHE"
_CHUNK_BYTES = 1 << 26
# Linux reserves memory for private maps, and refuses one larger than the machine's; not so with
# this flag, which numpy.memmap cannot set and Python does not name.
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0


def cache_directory() -> Path:
    """Where decoded images are kept: $SNAPENSEMBLE_CACHE, or the user's place for caches.

    Raises:
        OSError: this user has no home directory.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    # A relative path is to be ignored (XDG Base Directory Specification).
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".cache") / "snapensemble"
    except RuntimeError as error:
        raise OSError(f"no home directory: {error}") from error


def write_rows(
    file: Path, images: Iterable[NDArray[np.uint8]], most: int, shape_CHW: tuple[int, int, int]
) -> int:
    """Write images one by one as the .npy file of one array, flushed to the disk.

    They go through ordinary writes: on a full disk these raise, where a write through a memory
    map would end the process (SIGBUS).

    Args:
        file: does not exist yet.
        images: each of `shape_CHW`.
        most: a number of images that is not exceeded.
        shape_CHW: of one image.

    Returns:
        How many images there were.

    Raises:
        OSError: the disk is full, or the file cannot be made.
    """
    count = 0
    with file.open("xb") as stream:
        _write_header(stream, (most, *shape_CHW))
        start = stream.tell()
        for image_CHW in images:
            assert image_CHW.shape == shape_CHW
            stream.write(image_CHW.tobytes())
            count += 1
        stream.seek(0)
        _write_header(stream, (count, *shape_CHW))
        assert stream.tell() == start  # NumPy leaves room for any number of rows
        stream.flush()
        os.fsync(stream.fileno())
    return count


def refuse_without_room(directory: Path, count: int) -> None:
    """Raise now what a full disk would raise after hours of computing what is written there.

    Args:
        directory: on the disk.
        count: bytes that are to be written.

    Raises:
        OSError: they do not fit.
    """
    if shutil.disk_usage(directory).free < count:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


def open_rows(file: Path) -> NDArray[np.uint8]:
    """The array that `write_rows` wrote, as a memory map.

    Raises:
        OSError, ValueError: the file is absent, truncated, or holds no such array.
    """
    with file.open("rb") as stream:
        version = np.lib.format.read_magic(stream)
        shape, columns_first, dtype = np.lib.format.read_array_header_1_0(stream)
        if version != (1, 0) or columns_first or dtype != np.uint8:
            raise ValueError(f"{file}: not an array of images")
        return _mapped(stream, shape, stream.tell())


def take_rows(images_NCHW: NDArray[np.uint8], chosen_N: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The images where the mask is true, in memory only if `images_NCHW` is.

    Images of a memory map go to a file without a name in the cache directory, which the system
    removes with the array. Where no such file can be made, they go to memory.
    """
    if not is_mapped(images_NCHW):
        return images_NCHW[chosen_N]
    rows = np.flatnonzero(chosen_N)
    shape = (len(rows), *images_NCHW.shape[1:])
    step = max(1, _CHUNK_BYTES // max(1, images_NCHW[0].nbytes))
    try:
        with tempfile.TemporaryFile(dir=cache_directory()) as file:
            for start in range(0, len(rows), step):
                file.write(images_NCHW[rows[start : start + step]].tobytes())
            file.flush()
            return _mapped(file, shape, 0)
    except (OSError, ValueError):  # ValueError: no row, and an empty file has no map
        return images_NCHW[chosen_N]


def is_mapped(array: object) -> bool:
    """Whether the elements lie in a file rather than in memory."""
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, mmap.mmap)


def _mapped(file: IO[bytes], shape: tuple[int, ...], offset: int) -> NDArray[np.uint8]:
    pages = mmap.mmap(
        file.fileno(),
        offset + math.prod(shape),
        flags=mmap.MAP_PRIVATE | _MAP_NORESERVE,
        prot=mmap.PROT_READ | mmap.PROT_WRITE,
    )
    return np.ndarray(shape, np.uint8, pages, offset)


def _write_header(stream: IO[bytes], shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
