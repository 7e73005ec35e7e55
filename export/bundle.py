"""build_bundle(): run directories -> a bundle directory, whole or not at all.

Shapes: S snapshots, M members, N validation images, K classes.
"""

import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from contracts.answers import Answers
from contracts.bundle import BundleManifest, SelectionRecord, write_bundle
from contracts.figures import mean_probabilities, softmax, val_figures
from contracts.files import sha256_of
from export.config import DEFAULTS, ExportConfig
from export.convert import OPSET
from export.fit import fit_on_validation
from export.halves import halves
from export.members import convert, write_members
from export.pool import pooled
from export.publish import publishing
from export.select import select


def build_bundle(
    run_dirs: Path | Sequence[Path],
    bundle_dir: Path,
    config: ExportConfig = DEFAULTS,
    *,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> BundleManifest:
    """Export the chosen snapshots of a run, or of several pooled, each checked against torch.

    Args:
        run_dirs: made by `train`; unfinished runs give the cycles they have finished.
        bundle_dir: appears only when everything in it is complete.
        config: what is chosen, fitted and measured.
        force: replace a bundle that is there.
        say: is told what takes long, and what could not be done.

    Raises:
        InvalidManifest: a run directory is damaged.
        InvalidConfig: a setting does not fit, `bundle_dir` is taken, or the runs differ.
        InvalidData: int8 needs the validation images, and they are not where they were.
        ParityFailed: a member answers differently in ONNX Runtime.
        QuantizationRefused: int8 changes the answers more than the limits allow.
        WriteFailed: the disk is full.
    """
    pool = pooled([run_dirs] if isinstance(run_dirs, Path) else run_dirs)
    probs_SNK = softmax(pool.logits_SNK)
    selection_N = halves(pool.labels_N).selection_N
    chosen = select(
        probs_SNK[:, selection_N],
        pool.labels_N[selection_N],
        members=config.members,
        rule=config.select,
        metric=config.metric,
    )
    with publishing(bundle_dir, replace=force) as directory:
        exported, parity = convert(pool, chosen)
        answers = Answers(np.stack([member.probs_NK for member in exported]), pool.labels_N)
        fitted = fit_on_validation(answers, chosen.weights, config)
        run = pool.first_run
        manifest = BundleManifest(
            snapensemble=version("snapensemble"),
            name=config.name or default_name(bundle_dir),
            version="0" * 8,
            classes=run.classes,
            image=run.image,
            members=write_members(exported, directory),
            temperature=fitted.temperature,
            selection=SelectionRecord(
                rule=config.select,
                metric=config.metric,
                candidates=len(pool.candidates),
                images=len(selection_N),
            ),
            val=val_figures(
                mean_probabilities(answers.probs_MNK, chosen.weights, fitted.temperature),
                pool.labels_N,
            ),
            calibration=fitted.calibration,
            cascade=fitted.cascade,
            opset=OPSET,
            parity=parity,
            model=" + ".join(sorted({m.candidate.run.training.model for m in exported})),
            data=run.data,
        )
        manifest = manifest.model_copy(update={"version": content_version(manifest)})
        write_bundle(directory, manifest)
    return manifest


def content_version(manifest: BundleManifest) -> str:
    """Eight hexadecimal digits that change with anything in the bundle."""
    return sha256_of(manifest.model_dump_json().encode())[:8]


def default_name(bundle_dir: Path) -> str:
    """The directory's name, with what a model's name may not have replaced by dashes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", bundle_dir.resolve().name).strip("-.")[:64] or "model"
