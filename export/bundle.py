"""Building a bundle directory from run directories, whole or not at all.

Shapes: S snapshots, M members, N validation images, K classes.
"""

import contextlib
import re
import shutil
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.bundle import (
    BUNDLE_FILE,
    BundleManifest,
    QuantizationRecord,
    SelectionRecord,
    write_bundle,
)
from snapensemble.contracts.errors import InvalidConfig, WriteFailed
from snapensemble.contracts.files import (
    explaining_failures,
    hidden_directory,
    locked,
    refuse_unwritable,
    sha256_of,
    sync_directory,
)
from snapensemble.contracts.metrics import Answers, mean_probabilities, val_figures
from snapensemble.export.acceptance import judge_int8
from snapensemble.export.calibration import (
    Fitted,
    ValidationSplit,
    fit_on_validation,
    gains_over_singles,
    split_validation,
)
from snapensemble.export.candidates import Pool, pooled
from snapensemble.export.config import DEFAULTS, MIN_IMAGES, ExportConfig
from snapensemble.export.members import (
    Ensemble,
    Say,
    convert,
    in_int8,
    write_members,
    write_trunk,
)
from snapensemble.export.novelty import with_novelty
from snapensemble.export.onnx_export import OPSET
from snapensemble.export.report_inputs import gather_report_inputs
from snapensemble.export.selection import Chosen, select
from snapensemble.export.soup import with_soups
from snapensemble.report.bundle.page import write_bundle_report
from snapensemble.trainer.data.reread import reread
from snapensemble.trainer.recording.tracking import tool_of, track_bundle


def build_bundle(
    run_dirs: Path | Sequence[Path],
    bundle_dir: Path,
    config: ExportConfig = DEFAULTS,
    *,
    force: bool = False,
    say: Say = lambda _: None,
) -> BundleManifest:
    """Export the chosen snapshots of a run, or of several runs, each checked against torch.

    Args:
        run_dirs: made by `train`; unfinished runs give the cycles they have finished.
        bundle_dir: appears only when everything in it is complete.
        config: what is chosen, fitted and measured.
        force: replace a bundle that is there.
        say: called with a sentence about what takes long, or about what could not be done.

    Raises:
        InvalidManifest: a run directory is damaged.
        InvalidConfig: a setting does not fit, `bundle_dir` is taken, or the runs differ.
        InvalidData: int8, a soup or `novelty` needs the run's images, and they are not where
            they were.
        ParityFailed: a member answers differently in ONNX Runtime.
        QuantizationRefused: int8 changes the answers more than the limits allow.
        WriteFailed: the disk is full.
    """
    run_dirs = [run_dirs] if isinstance(run_dirs, Path) else run_dirs
    refuse_unwritable(bundle_dir.parent)
    if config.track:
        tool_of(run_dirs[0])  # before an export that takes minutes
    pool = pooled(run_dirs, config.class_prior)
    split = split_validation(pool.labels_N)
    with publishing(bundle_dir, replace=force) as directory:
        pool, soup = with_soups(pool, split, config, say)
        chosen = soup or _chosen(pool, split, config)
        images_NCHW = pool.calibration_images()
        fp32, parity = convert(pool, chosen, images_NCHW, say)
        served, quantization = _as_served(fp32, pool, images_NCHW, config, say)
        served, novelty = with_novelty(served, pool, split.calibration_N, config, say)
        answers = Answers(served.probs_MNK, pool.labels_N)
        fitted = fit_on_validation(answers, split, chosen.weights, config, pool.log_shares_K)
        if why := why_no_cascade(len(served.members), fitted, config):
            say(why)
        run = pool.first_run
        manifest = BundleManifest(
            snapensemble=version("snapensemble"),
            name=config.name or default_name(bundle_dir),
            version="0" * 8,
            classes=run.classes,
            image=run.image,
            trunk=write_trunk(served.trunk, directory),
            members=write_members(served.members, directory),
            price=fp32.price(),
            temperature=fitted.temperature,
            class_prior=config.class_prior,
            selection=_selection_record(pool, split, chosen, fitted, config),
            val=val_figures(
                mean_probabilities(answers.probs_MNK, chosen.weights, fitted.temperature),
                pool.labels_N,
            ),
            calibration=fitted.calibration,
            cascade=fitted.cascade,
            reference=fitted.reference,
            novelty=novelty,
            quantization=quantization,
            opset=OPSET,
            parity=parity,
            model=" + ".join(sorted({m.candidate.run.training.model for m in served.members})),
            data=run.data,
        )
        manifest = manifest.model_copy(update={"version": content_version(manifest)})
        if config.report:
            inputs = gather_report_inputs(
                served,
                fp32,
                fitted.held_out,
                split.calibration_N,
                images_NCHW,
                run,
                config,
                say,
            )
            write_bundle_report(directory, manifest, inputs)
        write_bundle(directory, manifest)
    if config.track:
        figures = {"bundle/nll": manifest.val.nll, "bundle/accuracy": manifest.val.accuracy}
        track_bundle(run_dirs[0], bundle_dir, figures)
    return manifest


def _chosen(pool: Pool, split: ValidationSplit, config: ExportConfig) -> Chosen:
    """The members, by the configured rule and the selection half of validation."""
    return select(
        pool.judged_by(config.metric)[:, split.selection_N],
        pool.labels_N[split.selection_N],
        pool.kinds_S,
        pool.pays_S,
        members=config.members,
        rule=config.select,
        metric=config.metric,
        weights=config.weights or "last",
        trusted=pool.trusted,
    )


def _selection_record(
    pool: Pool, split: ValidationSplit, chosen: Chosen, fitted: Fitted, config: ExportConfig
) -> SelectionRecord:
    """How the members were chosen, and what they gain over single snapshots."""
    everyone = Answers(pool.judged_SNK, pool.labels_N)
    return SelectionRecord(
        rule=config.select,
        metric=config.metric,
        candidates=len(pool.candidates),
        images=len(split.selection_N),
        reason=chosen.reason,
        gains=gains_over_singles(
            everyone.only(split.selection_N),
            everyone.only(split.calibration_N),
            fitted.calibrated_NK,
            chosen,
            [candidate.name for candidate in pool.candidates],
            last=pool.last,
            log_shares_K=pool.log_shares_K,
        ),
    )


def _as_served(
    fp32: Ensemble,
    pool: Pool,
    images_NCHW: NDArray[np.uint8],
    config: ExportConfig,
    say: Say,
) -> tuple[Ensemble, QuantizationRecord | None]:
    """The members in the configured precision, and what that changes on validation images."""
    if config.quantize == "none":
        return fp32, None
    run = pool.first_run
    say(f"reading the validation images of {config.data or run.data.spec}, for int8")
    val = reread(run.data, run.classes, run.image, spec=config.data, split="val")
    say(f"quantising {len(fp32.members)} members")
    int8 = in_int8(fp32, images_NCHW, val.images_NCHW, say)
    weights_M = [member.weight for member in fp32.members]
    return int8, judge_int8(
        fp32.probs_MNK, int8.probs_MNK, weights_M, pool.labels_N, config.int8_limits
    )


def why_no_cascade(members: int, fitted: Fitted, config: ExportConfig) -> str | None:
    """Why a bundle carries no cascade, and what would give it one; None if nobody misses it."""
    images = fitted.calibration.images
    limits = (
        f"--max-accuracy-drop {config.max_accuracy_drop:g} and --max-nll-rise "
        f"{config.max_nll_rise:g}"
    )
    if fitted.cascade is not None or config.cascade is False:
        return None
    if members == 1:
        needs = "no cascade: it takes several members, and one is served; ask for more by --members"
        return needs if config.cascade else None
    if config.cascade:
        return f"no cascade: no image may leave early within {limits}"
    cause = (
        f"{images:,} images chose nothing, and {MIN_IMAGES} are needed to promise its limits"
        if images < MIN_IMAGES
        else f"{images:,} images cannot show that one keeps {limits}"
    )
    return f"no cascade: {cause}; a larger --val-fraction may, or --cascade gives an estimate"


def content_version(manifest: BundleManifest) -> str:
    """Eight hexadecimal digits that change with anything in the bundle."""
    return sha256_of(manifest.model_dump_json().encode())[:8]


def default_name(bundle_dir: Path) -> str:
    """The directory's name, with what a model's name may not have replaced by dashes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", bundle_dir.resolve().name).strip("-._")[:64] or "model"


@contextlib.contextmanager
def publishing(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a hidden directory beside `target` to fill; on success it takes the name `target`.

    After an error or an interrupt the hidden directory is removed and `target` is as it was. What
    an export to the same place has left that was killed is removed first.

    Raises:
        InvalidConfig: `target` exists and `replace` is false, or it is no bundle.
        WriteFailed: the directory cannot be made or renamed.
    """
    if not target.name:  # as "." has none
        _refuse_taken(target, replace)
        target = target.absolute()
    aside = target.with_name(f".{target.name}.replaced")
    _put_back(aside, target)
    _refuse_taken(target, replace)
    with contextlib.ExitStack() as stack:
        with explaining_failures(target):
            hidden = stack.enter_context(
                hidden_directory(target.parent, f".{target.name}.partial-")
            )
        bundle = hidden / "bundle"
        bundle.mkdir()
        yield bundle
        sync_directory(bundle)
        _refuse_taken(target, replace)  # another export may have finished meanwhile
        with explaining_failures(target):
            with locked(target.parent):
                _swap(bundle, target, aside)
            sync_directory(target.parent)


def _swap(bundle: Path, target: Path, aside: Path) -> None:
    """Give `bundle` the name `target`; what was there steps aside, and back if that fails."""
    if not target.exists():
        bundle.rename(target)
        return
    # A rename cannot replace a directory that holds files.
    target.rename(aside)
    try:
        bundle.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _put_back(aside: Path, target: Path) -> None:
    """Let what an export has moved aside be there again, if it was killed before it had another."""
    with contextlib.suppress(OSError), locked(target.parent):
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(target)


def _refuse_taken(target: Path, replace: bool) -> None:
    try:
        taken = target.exists() or target.is_symlink()
    except OSError as error:
        raise WriteFailed(f"{target}: {error.strerror}; choose another --out") from error
    if not taken:
        return
    if not replace:
        raise InvalidConfig(f"{target} exists; choose another --out, or --force to replace it")
    if not (target / BUNDLE_FILE).is_file():
        raise InvalidConfig(f"{target} is not a bundle (no {BUNDLE_FILE}); it is not replaced")
