"""Fitting what a bundle's manifest says of the ensemble, on the validation images. Pure.

Validation is split once in two. Members, temperatures and the thresholds to test are fitted on the
selection half. The calibration half has chosen none of these, so its figures flatter nobody and
prediction sets cover what they promise. It tests the thresholds, one after the other.

Shapes: S snapshots, M members, N images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.bundle import CalibrationRecord, Gain
from snapensemble.contracts.cascade import CascadeRecord
from snapensemble.contracts.drift import ReferenceRecord, shares_of
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.metrics import (
    Answers,
    Floats,
    Labels,
    all_figures,
    class_weights,
    disagreement,
    errors,
    mean_probabilities,
    nll,
    nlls,
    reweighted,
    tempered,
)
from snapensemble.contracts.prediction_sets import fit_quantiles
from snapensemble.export.cascade import fit_cascade
from snapensemble.export.confidence import CONFIDENCE, bound_errors, paired_interval
from snapensemble.export.config import ExportConfig
from snapensemble.export.selection import FEW, Chosen, comparable
from snapensemble.export.temperature import fit_temperature

MAX_SET_CLASSES = 1_000  # with four quantiles each for every point of a cascade
_SEED = 0  # the same split for every export, so that figures can be compared


@dataclass(frozen=True, slots=True)
class ValidationSplit:
    """Indices of the validation images in either half."""

    selection_N: NDArray[np.intp]
    calibration_N: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Fitted:
    """The parts of a bundle's manifest that are fitted on validation."""

    temperature: float
    calibration: CalibrationRecord
    cascade: CascadeRecord | None
    reference: ReferenceRecord
    held_out: Answers  # answers to the calibration half, for the report
    calibrated_NK: Floats  # their average, with the temperature


def split_validation(labels_N: Labels) -> ValidationSplit:
    """Split validation at random into halves with like shares of each class.

    Of an odd number of images, the selection half has one more.

    Raises:
        InvalidConfig: one image cannot be split.
    """
    if len(labels_N) < 2:
        raise InvalidConfig(
            f"the run validates on {len(labels_N)} image; at least 2 are needed, one to choose and "
            "one to measure; train with more of them, or with a larger --val-fraction"
        )
    shuffled_N = np.random.default_rng(_SEED).permutation(len(labels_N))
    by_class_N = shuffled_N[np.argsort(labels_N[shuffled_N], kind="stable")]
    return ValidationSplit(np.sort(by_class_N[0::2]), np.sort(by_class_N[1::2]))


def fit_on_validation(
    answers: Answers,
    split: ValidationSplit,
    weights_M: Sequence[float],
    config: ExportConfig,
    log_shares_K: Floats | None = None,
) -> Fitted:
    """Fit on the selection half of validation; measure on the calibration half.

    Args:
        answers: the answers to all validation images of the members as they will be served.
        split: which of these images chose the members.
        weights_M: one per member, in the order in which a cascade runs them.
        config: whether to fit a cascade, its limits, and the kind of prediction sets.
        log_shares_K: of the validation images, with which the temperatures are fitted where the
            answers are for equally frequent classes.

    Raises:
        InvalidConfig: sets with a quantile per class would not fit into a manifest.
    """
    classes = answers.probs_MNK.shape[2]
    if config.sets == "class-conditional" and classes > MAX_SET_CLASSES:
        raise InvalidConfig(
            f"--sets class-conditional: at most {MAX_SET_CLASSES:,} classes, here are {classes:,}; "
            "use --sets marginal"
        )
    selection, held_out = answers.only(split.selection_N), answers.only(split.calibration_N)
    temperature = fit_temperature(
        mean_probabilities(selection.probs_MNK, weights_M), selection.labels_N, log_shares_K
    )
    before_NK = mean_probabilities(held_out.probs_MNK, weights_M)
    after_NK = mean_probabilities(held_out.probs_MNK, weights_M, temperature)
    return Fitted(
        temperature=temperature,
        calibration=CalibrationRecord(
            images=len(held_out.labels_N),
            before=all_figures(before_NK, held_out.labels_N),
            after=all_figures(after_NK, held_out.labels_N),
            sets=fit_quantiles(after_NK, held_out.labels_N, config.sets),
            abstention=bound_errors(after_NK, held_out.labels_N),
        ),
        cascade=None
        if config.cascade is False
        else fit_cascade(
            selection,
            held_out,
            weights_M,
            temperature,
            max_accuracy_drop=config.max_accuracy_drop,
            max_nll_rise=config.max_nll_rise,
            asked=config.cascade is True,
            sets=config.sets,
            log_shares_K=log_shares_K,
        ),
        reference=fit_reference(held_out.probs_MNK, weights_M, temperature),
        held_out=held_out,
        calibrated_NK=after_NK,
    )


def fit_reference(
    probs_MNK: Floats, weights_M: Sequence[float], temperature: float
) -> ReferenceRecord:
    """The shares of images by confidence and by disagreement where every member answers.

    Args:
        probs_MNK: the members' answers to the calibration half of validation.
        weights_M: one per member, summing to 1.
        temperature: the temperature of the average.
    """
    return ReferenceRecord(
        images=probs_MNK.shape[1],
        confidence=shares_of(mean_probabilities(probs_MNK, weights_M, temperature).max(axis=-1)),
        disagreement=shares_of(disagreement(probs_MNK, weights_M)),
    )


def gains_over_singles(
    selection: Answers,
    held_out: Answers,
    served_NK: Floats,
    chosen: Chosen,
    names_S: Sequence[str],
    last: int,
    log_shares_K: Floats | None = None,
) -> tuple[Gain, ...]:
    """Compare what is served with the last snapshot, and with the best network of all.

    Args:
        selection: every snapshot's answers to the selection half of validation, which fit the
            single networks' temperatures, and say which of them is the best.
        held_out: their answers to the calibration half, which chose nothing.
        served_NK: the calibrated answers to the calibration half of what is served.
        chosen: the members.
        names_S: the snapshots' names.
        last: which of them is the last snapshot.
        log_shares_K: of the validation images, where what is served answers for equally frequent
            classes and the snapshots for those shares: an NLL is then of answers for the shares,
            an accuracy of those for equally frequent classes.

    Returns:
        One entry, or two, without a network that is served alone: nothing is gained over itself.
    """
    temperatures_S = [fit_temperature(probs, selection.labels_N) for probs in selection.probs_MNK]
    calibrated = [
        tempered(probs, T) for probs, T in zip(selection.probs_MNK, temperatures_S, strict=True)
    ]
    best = int(np.argmin([nll(probs, selection.labels_N) for probs in calibrated]))
    singles = {"last": last} if best == last else {"last": last, "best_single": best}
    labels_N = held_out.labels_N
    if len(labels_N) < 2:
        return ()
    weights_N = class_weights(labels_N)
    ours_NK = reweighted(served_NK, log_shares_K)
    equal_K = None if log_shares_K is None else -log_shares_K
    gains = []
    for over, single in singles.items():
        if chosen.indices == (single,):
            continue
        single_NK = tempered(held_out.probs_MNK[single], temperatures_S[single])
        named_NK = reweighted(single_NK, equal_K)
        gained_N = errors(named_NK, labels_N) - errors(served_NK, labels_N)
        gains.append(
            Gain(
                over=over,
                member=names_S[single],
                images=len(labels_N),
                confidence=CONFIDENCE,
                nll=paired_interval(nlls(single_NK, labels_N) - nlls(ours_NK, labels_N)),
                accuracy=paired_interval(gained_N, largest=1.0),
                macro_accuracy=paired_interval(gained_N * weights_N, float(weights_N.max()))
                if comparable(labels_N, "macro") >= FEW
                else None,
            )
        )
    return tuple(gains)
