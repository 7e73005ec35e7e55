"""Snapshots as ONNX members, with the answers of each to the validation images.

Shapes: M members, N validation images, C channels, H height, W width, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.bundle import Member, ParityRecord, Precision
from snapensemble.contracts.files import write_atomically
from snapensemble.contracts.metrics import Floats, softmax
from snapensemble.export.candidates import Candidate, Pool
from snapensemble.export.int8.quantize import to_int8
from snapensemble.export.onnx_export import member_metadata, to_onnx
from snapensemble.export.parity import ensemble_parity, parity, run_member
from snapensemble.export.selection import Chosen
from snapensemble.trainer.recording.snapshots import load_model


@dataclass(frozen=True, slots=True)
class Exported:
    """A member that is not written yet."""

    candidate: Candidate
    weight: float
    precision: Precision
    onnx_file: bytes
    probs_NK: Floats  # this file's answers to the validation images


def convert(
    pool: Pool, chosen: Chosen, images_NCHW: NDArray[np.uint8]
) -> tuple[list[Exported], ParityRecord]:
    """Convert the chosen snapshots in fp32, and compare each and their average with torch.

    Raises:
        InvalidManifest: a snapshot is damaged.
        ParityFailed: ONNX Runtime answers differently.
    """
    exported, compared = [], []
    for index, weight in zip(chosen.indices, chosen.weights, strict=True):
        candidate = pool.candidates[index]
        run, snapshot = candidate.run, candidate.snapshot
        model = load_model(candidate.run_dir, run, snapshot)
        onnx_file = to_onnx(model, run.image, member_metadata(run, snapshot, member=candidate.name))
        compared.append(parity(model, onnx_file, images_NCHW, what=candidate.name))
        # The run has kept torch's answers; ONNX Runtime has just been found to give the same.
        probs_NK = pool.probs_SNK[index]
        exported.append(Exported(candidate, weight, "fp32", onnx_file, probs_NK))
    return exported, ensemble_parity(compared, chosen.weights)


def in_int8(
    exported: Sequence[Exported],
    calibration_NCHW: NDArray[np.uint8],
    val_NCHW: NDArray[np.uint8],
) -> list[Exported]:
    """The same members computed in int8, with their own answers to the validation images.

    Raises:
        QuantizationRefused: nothing in a network can be computed in int8.
    """
    quantised = []
    for member in exported:
        onnx_file = to_int8(member.onnx_file, calibration_NCHW)
        probs_NK = softmax(run_member(onnx_file, val_NCHW))
        quantised.append(replace(member, precision="int8", onnx_file=onnx_file, probs_NK=probs_NK))
    return quantised


def write_members(exported: Sequence[Exported], directory: Path) -> tuple[Member, ...]:
    """Write the files under `members/`; the manifest's entries for them come back."""
    (directory / "members").mkdir()
    return tuple(_write(member, directory) for member in exported)


def _write(exported: Exported, directory: Path) -> Member:
    name, snapshot = exported.candidate.name, exported.candidate.snapshot
    file = f"members/{name}.onnx"
    return Member(
        name=name,
        file=file,
        sha256=write_atomically(directory / file, exported.onnx_file),
        size=len(exported.onnx_file),
        weight=exported.weight,
        run=exported.candidate.run_number,
        cycle=snapshot.cycle,
        weights=snapshot.weights,
        step=snapshot.step,
        precision=exported.precision,
        val=snapshot.val,
    )
