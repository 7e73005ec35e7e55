"""build_bundle(): a run directory -> a bundle directory, whole or not at all.

Shapes: S snapshots, M members, N validation images, K classes.
"""

import re
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.arrays import read_array, read_validation
from contracts.bundle import BundleManifest, Member, ParityRecord, SelectionRecord, write_bundle
from contracts.errors import InvalidConfig
from contracts.figures import Metric, mean_probabilities, softmax, val_figures
from contracts.files import sha256_of, write_atomically
from contracts.run import RunManifest, Snapshot, read_run
from export.convert import OPSET, to_onnx
from export.publish import publishing
from export.select import Rule, select
from export.verify import parity
from trainer.snapshots import load_model

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def build_bundle(
    run_dir: Path,
    bundle_dir: Path,
    *,
    m: int | None = None,
    rule: Rule = "best",
    metric: Metric = "nll",
    name: str | None = None,
    force: bool = False,
) -> BundleManifest:
    """Export the best m snapshots of a run, each checked against torch.

    Args:
        run_dir: made by `train`; unfinished runs give the cycles they have finished.
        bundle_dir: appears only when everything in it is complete.
        m: how many members; see `select`.
        rule: see `select`.
        metric: see `select`.
        name: of the model, as clients see it; the directory's name if not given.
        force: replace a bundle that is there.

    Raises:
        InvalidManifest: the run directory is damaged.
        InvalidConfig: `m` does not fit, or `bundle_dir` is taken.
        ParityFailed: a member answers differently in ONNX Runtime.
        WriteFailed: the disk is full.
    """
    run = read_run(run_dir)
    logits_SNK, labels_N = read_validation(run_dir, run)
    chosen = select([s.val for s in run.snapshots], m=m, rule=rule, metric=metric)
    name = name or default_name(bundle_dir)
    if not NAME.fullmatch(name):
        raise InvalidConfig(f"--name {name!r}: use letters, digits, '.', '_', '-', 64 at most")
    with publishing(bundle_dir, replace=force) as directory:
        (directory / "members").mkdir()
        images_NCHW = read_array(run_dir, run.calibration_images, np.uint8)
        exported = [
            export_member(run_dir, run, run.snapshots[i], 1 / len(chosen), images_NCHW, directory)
            for i in chosen
        ]
        manifest = BundleManifest(
            snapensemble=version("snapensemble"),
            name=name,
            version="0" * 8,
            classes=run.classes,
            image=run.image,
            members=tuple(member for member, _ in exported),
            selection=SelectionRecord(rule=rule, metric=metric, candidates=len(run.snapshots)),
            val=val_figures(mean_probabilities(softmax(logits_SNK[chosen])), labels_N),
            opset=OPSET,
            parity=worst([record for _, record in exported]),
            model=run.training.model,
            data=run.data,
        )
        manifest = manifest.model_copy(update={"version": content_version(manifest)})
        write_bundle(directory, manifest)
    return manifest


def export_member(
    run_dir: Path,
    run: RunManifest,
    snapshot: Snapshot,
    weight: float,
    images_NCHW: NDArray[np.uint8],
    directory: Path,
) -> tuple[Member, ParityRecord]:
    """Convert one snapshot, check it, and write it into the bundle's `members/`."""
    member = f"cycle-{snapshot.cycle:02d}"
    model = load_model(run_dir, run, snapshot)
    onnx_file = to_onnx(model, run.image)
    record = parity(model, onnx_file, images_NCHW, what=member)
    file = f"members/{member}.onnx"
    return (
        Member(
            name=member,
            file=file,
            sha256=write_atomically(directory / file, onnx_file),
            weight=weight,
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
