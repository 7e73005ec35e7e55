"""Snapshots as ONNX members, and what each says of the validation images.

Shapes: N validation images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contracts.bundle import Member, ParityRecord, Precision
from contracts.figures import Floats, softmax
from contracts.files import write_atomically
from export.convert import to_onnx
from export.pool import Candidate, Pool
from export.select import Chosen
from export.verify import parity
from trainer.snapshots import load_model


@dataclass(frozen=True, slots=True)
class Exported:
    """A member that is not written yet."""

    candidate: Candidate
    weight: float
    precision: Precision
    onnx_file: bytes
    probs_NK: Floats  # of validation, as this file answers


def convert(pool: Pool, chosen: Chosen) -> tuple[list[Exported], ParityRecord]:
    """The chosen snapshots in fp32, each compared with torch.

    Raises:
        ParityFailed: a member answers differently in ONNX Runtime.
    """
    images_NCHW = pool.calibration_images()
    exported, records = [], []
    for index, weight in zip(chosen.indices, chosen.weights, strict=True):
        candidate = pool.candidates[index]
        model = load_model(candidate.run_dir, candidate.run, candidate.snapshot)
        onnx_file = to_onnx(model, candidate.run.image)
        records.append(parity(model, onnx_file, images_NCHW, what=candidate.name))
        # Torch's answers, kept by the run: ONNX Runtime has just been found to give the same.
        probs_NK = softmax(pool.logits_SNK[index])
        exported.append(Exported(candidate, weight, "fp32", onnx_file, probs_NK))
    return exported, worst(records)


def write_members(exported: Sequence[Exported], directory: Path) -> tuple[Member, ...]:
    """The files under `members/`, and what the manifest says of them."""
    (directory / "members").mkdir()
    return tuple(_write(member, directory) for member in exported)


def _write(exported: Exported, directory: Path) -> Member:
    name, snapshot = exported.candidate.name, exported.candidate.snapshot
    file = f"members/{name}.onnx"
    return Member(
        name=name,
        file=file,
        sha256=write_atomically(directory / file, exported.onnx_file),
        weight=exported.weight,
        run=exported.candidate.run_number,
        cycle=snapshot.cycle,
        step=snapshot.step,
        precision=exported.precision,
        val=snapshot.val,
    )


def worst(records: Sequence[ParityRecord]) -> ParityRecord:
    """The largest differences of all members."""
    return ParityRecord(
        batch_sizes=records[0].batch_sizes,
        max_logit_difference=max(r.max_logit_difference for r in records),
        max_probability_difference=max(r.max_probability_difference for r in records),
    )
