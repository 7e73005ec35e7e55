"""Bundles for the tests of their report: a manifest and answers made of numbers, without ONNX.

Shapes: M members, N images, K classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from snapensemble.contracts.bundle import (
    BundleManifest,
    CalibrationRecord,
    Member,
    ParityRecord,
    QuantizationRecord,
    SelectionRecord,
)
from snapensemble.contracts.cascade import Cascade, CascadePoint, CascadeRecord, run_cascade
from snapensemble.contracts.manifest import ValFigures
from snapensemble.contracts.metrics import (
    Answers,
    Floats,
    all_figures,
    mean_probabilities,
    nll,
    softmax,
    val_figures,
)
from snapensemble.contracts.prediction_sets import SetKind, fit_quantiles
from snapensemble.report.bundle.records import ImagesPerSecond, SpeedRecord
from tests.factories import CLASSES, CONTRACT, DATA

SPEED = SpeedRecord(
    machine="a processor",
    fp32=ImagesPerSecond(batch_1=100, batch_16=160),
    int8=ImagesPerSecond(batch_1=250, batch_16=320),
)
QUANTIZATION = QuantizationRecord(
    images=40, accuracy_drop=-0.01, nll_rise=0.002, agreement=0.98,
    max_accuracy_drop=0.01, max_nll_rise=0.02, min_agreement=0.95,
)  # fmt: skip


def answers(images: int, *, members: int = 3, classes: int = 3, seed: int = 0) -> Answers:
    """Answers of members that are often right, too sure and disagree; the first is the best."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, classes, images)
    right_NK = np.eye(classes)[labels_N]
    shared_NK = 1.3 * rng.normal(size=right_NK.shape)
    logits_MNK = np.stack(
        [
            (5 - 0.1 * m) * right_NK + shared_NK + 0.7 * rng.normal(size=right_NK.shape)
            for m in range(members)
        ]
    )
    return Answers(softmax(2.5 * logits_MNK), labels_N)


def make_manifest(
    calibration: Answers,
    *,
    names: Sequence[str] = CLASSES,
    sets: bool = True,
    cascade: bool = True,
    int8: bool = False,
    kind: SetKind = "marginal",
    **changes: Any,
) -> BundleManifest:
    """A manifest whose sets, of a kind, and cascade fit the answers."""
    M = len(calibration.probs_MNK)
    temperature = fitted_temperature(calibration.probs_MNK, calibration)
    members = tuple(
        Member(
            name=f"cycle-{m:02d}", file=f"members/cycle-{m:02d}.onnx", sha256="0" * 64,
            weight=1 / M, cycle=m, step=10 * (m + 1), precision="int8" if int8 else "fp32",
            val=ValFigures(nll=0.5, accuracy=0.9),
        )
        for m in range(M)
    )  # fmt: skip
    fields: dict[str, Any] = {
        "snapensemble": "0",
        "name": "insects",
        "version": "0badcafe",
        "classes": tuple(names),
        "image": CONTRACT,
        "members": members,
        "temperature": temperature,
        "selection": SelectionRecord(rule="best", metric="nll", candidates=M + 2, images=40),
        "val": ValFigures(nll=0.4, accuracy=0.95),
        "calibration": calibration_record(calibration, temperature, kind)
        if sets and len(calibration)
        else None,
        "cascade": cascade_record(calibration, temperature)
        if cascade and len(calibration)
        else None,
        "quantization": QUANTIZATION if int8 else None,
        "opset": 20,
        "parity": ParityRecord(
            batch_sizes=(1, 2), max_logit_difference=1e-5, max_probability_difference=1e-6
        ),
        "model": "resnet20",
        "data": DATA,
    }
    return BundleManifest(**{**fields, **changes})


def fitted_temperature(probs_MNK: Floats, calibration: Answers) -> float:
    """The best of a few temperatures for the average of some members; 1 without images."""
    if not len(calibration):
        return 1.0

    def badness(temperature: float) -> float:
        probs_NK = mean_probabilities(probs_MNK, temperature=temperature)
        return nll(probs_NK, calibration.labels_N)

    return min((0.6, 0.7, 0.8, 0.9, 1.1, 1.25, 1.5, 2.0), key=badness)


def calibration_record(
    calibration: Answers, temperature: float, kind: SetKind
) -> CalibrationRecord:
    """What the export would write of these answers."""
    probs_MNK, labels_N = calibration.probs_MNK, calibration.labels_N
    after_NK = mean_probabilities(probs_MNK, temperature=temperature)
    return CalibrationRecord(
        images=len(labels_N),
        before=all_figures(mean_probabilities(probs_MNK), labels_N),
        after=all_figures(after_NK, labels_N),
        sets=fit_quantiles(after_NK, labels_N, kind),
    )


def cascade_record(calibration: Answers, temperature: float) -> CascadeRecord:
    """A cascade of five margins from careless to careful, the same after each member."""
    probs_MNK, labels_N = calibration.probs_MNK, calibration.labels_N
    M, points = len(probs_MNK), []
    temperatures = [fitted_temperature(probs_MNK[:m], calibration) for m in range(1, M)]
    for drop, margin in ((0.03, 0.2), (0.01, 0.6), (0.004, 0.85), (0.002, 0.97), (0.0, 1.1)):
        rule = Cascade(
            rule="threshold",
            thresholds=[margin] * (M - 1),
            temperatures=temperatures,
            weights_M=[1 / M] * M,
        )
        probs_NK, used_N = run_cascade(probs_MNK, rule, temperature)
        points.append(
            CascadePoint(
                thresholds=tuple(rule.thresholds),
                accuracy_drop=drop,
                nll_rise=drop,
                members_per_image=float(used_N.mean()),
                val=val_figures(probs_NK, labels_N),
                sets=fit_quantiles(probs_NK, labels_N),
            )
        )
    return CascadeRecord(
        rule="threshold",
        temperatures=tuple(temperatures),
        max_accuracy_drop=0.005,
        max_nll_rise=0.02,
        points=tuple(points),
    )
