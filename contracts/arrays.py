"""The arrays that a run keeps beside its manifest, read with their hashes checked.

Shapes: S snapshots, N validation images, K classes.
"""

import io
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from contracts.errors import InvalidManifest
from contracts.files import read_verified
from contracts.records import FileRef
from contracts.run import RunManifest

Number = TypeVar("Number", bound=np.generic)


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
    """An .npy file of the run, its hash and its type checked."""
    data = read_verified(run_dir, reference.file, reference.sha256)
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InvalidManifest(f"{run_dir / reference.file}: not an .npy file: {error}") from error
    if array.dtype != dtype:
        raise InvalidManifest(
            f"{run_dir / reference.file}: holds {array.dtype}, expected {np.dtype(dtype)}"
        )
    return np.asarray(array, dtype)
