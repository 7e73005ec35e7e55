"""build_bundle(): run directories -> a bundle directory, whole or not at all.

Shapes: S snapshots, M members, N validation images, K classes.
"""

import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.bundle import BundleManifest, Member, ParityRecord, SelectionRecord, write_bundle
from contracts.errors import InvalidConfig
from contracts.figures import Metric, mean_probabilities, softmax, val_figures
from contracts.files import sha256_of, write_atomically
from export.convert import OPSET, to_onnx
from export.pool import Candidate, pooled
from export.publish import publishing
from export.select import Rule, select
from export.verify import parity
from trainer.snapshots import load_model

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def build_bundle(
    run_dirs: Path | Sequence[Path],
    bundle_dir: Path,
    *,
    m: int | None = None,
    rule: Rule = "best",
    metric: Metric = "nll",
    name: str | None = None,
    force: bool = False,
) -> BundleManifest:
    """Export the best m snapshots of a run, or of several pooled, each checked against torch.

    Args:
        run_dirs: made by `train`; unfinished runs give the cycles they have finished.
        bundle_dir: appears only when everything in it is complete.
        m: how many members; see `select`.
        rule: see `select`.
        metric: see `select`.
        name: of the model, as clients see it; the directory's name if not given.
        force: replace a bundle that is there.

    Raises:
        InvalidManifest: a run directory is damaged.
        InvalidConfig: `m` does not fit, `bundle_dir` is taken, or the runs do not go together.
        ParityFailed: a member answers differently in ONNX Runtime.
        WriteFailed: the disk is full.
    """
    pool = pooled([run_dirs] if isinstance(run_dirs, Path) else run_dirs)
    candidates, run = pool.candidates, pool.first_run
    chosen = select([c.snapshot.val for c in candidates], m=m, rule=rule, metric=metric)
    name = name or default_name(bundle_dir)
    if not NAME.fullmatch(name):
        raise InvalidConfig(f"--name {name!r}: use letters, digits, '.', '_', '-', 64 at most")
    with publishing(bundle_dir, replace=force) as directory:
        (directory / "members").mkdir()
        images_NCHW = pool.calibration_images()
        exported = [
            export_member(candidates[i], 1 / len(chosen), images_NCHW, directory) for i in chosen
        ]
        manifest = BundleManifest(
            snapensemble=version("snapensemble"),
            name=name,
            version="0" * 8,
            classes=run.classes,
            image=run.image,
            members=tuple(member for member, _ in exported),
            selection=SelectionRecord(rule=rule, metric=metric, candidates=len(candidates)),
            val=val_figures(mean_probabilities(softmax(pool.logits_SNK[chosen])), pool.labels_N),
            opset=OPSET,
            parity=worst([record for _, record in exported]),
            model=" + ".join(sorted({candidates[i].run.training.model for i in chosen})),
            data=run.data,
        )
        manifest = manifest.model_copy(update={"version": content_version(manifest)})
        write_bundle(directory, manifest)
    return manifest


def export_member(
    candidate: Candidate,
    weight: float,
    images_NCHW: NDArray[np.uint8],
    directory: Path,
) -> tuple[Member, ParityRecord]:
    """Convert one snapshot, check it, and write it into the bundle's `members/`."""
    member, snapshot = candidate.name, candidate.snapshot
    model = load_model(candidate.run_dir, candidate.run, snapshot)
    onnx_file = to_onnx(model, candidate.run.image)
    record = parity(model, onnx_file, images_NCHW, what=member).record
    file = f"members/{member}.onnx"
    return (
        Member(
            name=member,
            file=file,
            sha256=write_atomically(directory / file, onnx_file),
            weight=weight,
            run=candidate.run_number,
            cycle=snapshot.cycle,
            step=snapshot.step,
            val=snapshot.val,
        ),
        record,
    )


def worst(records: list[ParityRecord]) -> ParityRecord:
    """The largest differences of all members."""
    return ParityRecord(
        batch_sizes=records[0].batch_sizes,
        max_logit_difference=max(r.max_logit_difference for r in records),
        max_probability_difference=max(r.max_probability_difference for r in records),
    )


def content_version(manifest: BundleManifest) -> str:
    """Eight hexadecimal digits that change with anything in the bundle."""
    return sha256_of(manifest.model_dump_json().encode())[:8]


def default_name(bundle_dir: Path) -> str:
    """The directory's name, with what a model's name may not have replaced by dashes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", bundle_dir.resolve().name).strip("-.")[:64] or "model"
