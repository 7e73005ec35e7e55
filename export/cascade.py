"""Choosing the thresholds at which images leave a cascade, by their cost and their loss. Pure.

Shapes: M members, N images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from snapensemble.contracts.cascade import (
    Cascade,
    CascadePoint,
    CascadeRecord,
    LeaveRule,
    first_weights,
    run_cascade,
)
from snapensemble.contracts.metrics import (
    Answers,
    Floats,
    mean_probabilities,
    nll,
    nll_rise,
    val_figures,
)
from snapensemble.contracts.prediction_sets import fit_quantiles
from snapensemble.export.temperature import fit_temperature

# Margins between the two likeliest classes, after the temperature of the depth.
THRESHOLDS = (
    0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99,
    0.993, 0.995, 0.997, 0.998, 0.999, 0.9995, 0.9999,
)  # fmt: skip
RULES: tuple[LeaveRule, ...] = ("threshold", "interval")
CONFIDENCES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


@dataclass(frozen=True, slots=True)
class _Tried:
    """A choice of thresholds and its cost on the selection half, members per image."""

    cost: float
    point: CascadePoint


def fit_cascade(
    selection: Answers,
    calibration: Answers,
    weights_M: Sequence[float],
    temperature: float,
    *,
    max_accuracy_drop: float,
    max_nll_rise: float,
    rules: Sequence[LeaveRule] = RULES,
) -> CascadeRecord | None:
    """The rule, thresholds and temperatures that need the fewest members within the limits.

    A fixed threshold on the margin is compared with the confidence interval of Inoue (2019), which
    needs two members at least.

    The drop in accuracy is what the full ensemble expects of it: the mean, over images, of its
    probability of its own answer less that of the cascade's. Counting right answers instead would
    let chance choose: of 2,500 images 1 % may be answered otherwise, which moves the accuracy by
    0.2 points.

    Args:
        selection: answers to the images that choose the thresholds.
        calibration: answers to other images, from which the record's figures come.
        weights_M: one per member, see `Cascade`.
        temperature: the temperature of the average of all members.
        max_accuracy_drop: fraction.
        max_nll_rise: relative to the full ensemble.
        rules: the rules that are compared.

    Returns:
        None if there is one member, or no image may leave early within the limits.
    """
    depths = range(1, len(weights_M))
    temperatures = tuple(
        fit_temperature(
            mean_probabilities(selection.probs_MNK[:d], first_weights(weights_M, d)),
            selection.labels_N,
        )
        for d in depths
    )
    full_NK = mean_probabilities(selection.probs_MNK, weights_M, temperature)
    fitted: list[tuple[float, CascadeRecord]] = []
    choices: dict[LeaveRule, list[tuple[float | None, ...]]] = {
        "threshold": [(threshold,) * len(depths) for threshold in THRESHOLDS],
        "interval": [_multipliers(confidence, len(depths)) for confidence in CONFIDENCES],
    }
    for rule in rules:
        tried = [
            _try(
                Cascade(
                    rule=rule, thresholds=choice, temperatures=temperatures, weights_M=weights_M
                ),
                selection,
                full_NK,
                calibration,
                temperature,
            )
            for choice in (*choices[rule], (None,) * len(depths))
        ]
        record = CascadeRecord(
            rule=rule,
            temperatures=temperatures,
            max_accuracy_drop=max_accuracy_drop,
            max_nll_rise=max_nll_rise,
            points=tuple(each.point for each in _frontier(tried)),
        )
        cost = next(each.cost for each in tried if each.point == record.point())
        fitted.append((cost, record))
    cost, record = min(fitted, key=lambda each: each[0])
    return record if cost < len(weights_M) else None


def expected_accuracy_drop(full_NK: Floats, probs_NK: Floats) -> float:
    """The accuracy, a fraction, that the full ensemble expects to be lost by other answers.

    Args:
        full_NK: the full ensemble's calibrated answers.
        probs_NK: the answers that are given instead.
    """
    rows_N = np.arange(len(full_NK))
    drop_N = full_NK.max(axis=1) - full_NK[rows_N, probs_NK.argmax(axis=1)]
    return float(np.clip(drop_N.mean(), 0, 1))


def _try(
    cascade: Cascade,
    selection: Answers,
    full_NK: Floats,
    calibration: Answers,
    temperature: float,
) -> _Tried:
    probs_NK, used_N = run_cascade(selection.probs_MNK, cascade, temperature)
    held_NK, held_used_N = run_cascade(calibration.probs_MNK, cascade, temperature)
    point = CascadePoint(
        thresholds=tuple(cascade.thresholds),
        accuracy_drop=expected_accuracy_drop(full_NK, probs_NK),
        nll_rise=nll_rise(nll(probs_NK, selection.labels_N), nll(full_NK, selection.labels_N)),
        members_per_image=float(held_used_N.mean()),
        val=val_figures(held_NK, calibration.labels_N),
        sets=fit_quantiles(held_NK, calibration.labels_N),
    )
    return _Tried(float(used_N.mean()), point)


def _frontier(tried: Sequence[_Tried]) -> list[_Tried]:
    """The choices by their cost, without those that a cheaper one equals in both figures."""
    kept: list[_Tried] = []
    for each in sorted(tried, key=lambda each: (each.cost, each.point.nll_rise)):
        if all(
            each.point.accuracy_drop < other.point.accuracy_drop
            or each.point.nll_rise < other.point.nll_rise
            for other in kept
        ):
            kept.append(each)
    return kept


def _multipliers(confidence: float, depths: int) -> tuple[float | None, ...]:
    """Student's t quantile over the root of d, after d members; no image leaves after the first."""
    return (
        None,
        *(
            float(student.ppf((1 + confidence) / 2, d - 1) / np.sqrt(d))
            for d in range(2, depths + 1)
        ),
    )
