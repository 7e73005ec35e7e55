"""The arrays that a run keeps beside its manifest, read with their hashes checked.

Shapes: S snapshots, N validation images, K classes.
"""

import math
import re
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from contracts.errors import InvalidManifest
from contracts.files import read_verified
from contracts.records import FileRef
from contracts.run import RunManifest

Number = TypeVar("Number", bound=np.generic)
MAX_DIMENSIONS = 8
_MAGIC = b"\x93NUMPY\x01\x00"
# As NumPy has always written it; a size has so few digits that no number takes long to read.
_HEADER = re.compile(
    rb"\{'descr': '([<|][a-z][0-9]{1,2})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:[0-9]{1,18}, ?)*(?:[0-9]{1,18})?)\), \} *\n"
)


def read_validation(
    run_dir: Path, run: RunManifest
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """logits_SNK and labels_N of the validation split, with their hashes and shapes checked."""
    labels_N = read_array(run_dir, run.val_labels, np.int64)
    expected = (len(labels_N), len(run.classes))
    logits_SNK = np.empty((len(run.snapshots), *expected), dtype=np.float32)
    for row, snapshot in enumerate(run.snapshots):
        logits_NK = read_array(run_dir, snapshot.val_logits, np.float32)
        if logits_NK.shape != expected:
            raise InvalidManifest(
                f"{run_dir / snapshot.val_logits.file}: shape {logits_NK.shape}, "
                f"expected {expected}"
            )
        logits_SNK[row] = logits_NK
    return logits_SNK, labels_N


def read_array(run_dir: Path, reference: FileRef, dtype: type[Number]) -> NDArray[Number]:
    """An .npy file of the run, its hash, its type and its size checked.

    NumPy's own reader evaluates the header as Python and takes the memory that it asks for; here
    nothing is taken but what is there.
    """
    data = read_verified(run_dir, reference.file, reference.sha256, reference.size)
    try:
        return parse_array(data, dtype)
    except ValueError as error:
        raise InvalidManifest(f"{run_dir / reference.file}: {error}") from error


def parse_array(data: bytes, dtype: type[Number]) -> NDArray[Number]:
    """The array in the bytes of an .npy file, as `numpy.save` writes it.

    Raises:
        ValueError: it is none, of another type, or of more or fewer bytes than its shape says.
    """
    if not data.startswith(_MAGIC):
        raise ValueError("not an .npy file of version 1.0")
    start = len(_MAGIC) + 2
    end = start + int.from_bytes(data[len(_MAGIC) : start], "little")
    header = _HEADER.fullmatch(data[start:end])
    if header is None:
        raise ValueError(f"not an .npy file: its header begins with {data[start:end][:60]!r}")
    found, columns_first, dimensions = (part.decode() for part in header.groups())
    expected = np.dtype(dtype)
    if found != expected.str:
        raise ValueError(f"holds {_name(found)}, expected {expected}")
    shape = tuple(int(size) for size in dimensions.replace(",", " ").split())
    if len(shape) > MAX_DIMENSIONS or math.prod(shape) * expected.itemsize != len(data) - end:
        raise ValueError(f"its header says shape {shape}, and {len(data) - end:,} bytes follow")
    order: Literal["F", "C"] = "F" if columns_first == "True" else "C"
    return np.frombuffer(data, expected, offset=end).reshape(shape, order=order).copy()


def _name(description: str) -> str:
    try:
        return str(np.dtype(description))
    except TypeError:
        return description
