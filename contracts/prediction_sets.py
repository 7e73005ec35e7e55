"""Split conformal prediction: sets of classes that hold the right one as often as promised.

A score says how badly a class fits an image; the set holds every class whose score is at most the
quantile of the right classes' scores on images that had no part in choosing the model. If those
and the image to answer are drawn alike, the right class is in the set with at least the promised
probability, averaged over images (Vovk et al. 2005; Papadopoulos et al. 2002). With a quantile per
class, of the images of that class, it is so within each class, too (Mondrian conformal prediction,
Vovk et al. 2005, section 4.5).

All functions are pure. Shapes: B images, K classes.
"""

import math
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from snapensemble.contracts.manifest import Fraction, Record
from snapensemble.contracts.metrics import Floats, Labels

Method = Literal["least_ambiguous", "adaptive"]
METHODS: tuple[Method, ...] = ("least_ambiguous", "adaptive")
SetKind = Literal["marginal", "class-conditional"]
COVERAGES = (0.9, 0.95)
# A score computed in two ways differs in its last bits; the set must hold what scored the quantile.
_ROUNDING = 1e-9


class SetQuantile(Record):
    """What decides which classes are in a set that holds the right one `coverage` of the time."""

    method: Method
    coverage: Annotated[float, Field(gt=0, lt=1)]
    # Of the scores. None: there are too few images to promise it, so every class is in the set.
    quantile: Fraction | None
    # By class, which decide instead of the one above. None: too few images of the class, so it is
    # in every set.
    per_class: tuple[Fraction | None, ...] | None = None


def class_scores(probs_BK: Floats, method: Method) -> Floats:
    """scores_BK in [0, 1]: how badly each class fits, by the averaged, calibrated probabilities.

    `least_ambiguous`: 1 - p, which gives the smallest sets on average (Sadinle et al. 2019).
    `adaptive`: the probability of all likelier classes, so that sets grow where the answer is
    unsure (Romano et al. 2020, with their random number fixed at 1: the same image gets the same
    set, and coverage is above the promise where the likeliest class alone is right more often).
    """
    if method == "least_ambiguous":
        return np.asarray(1 - probs_BK)
    order_BK = np.argsort(-probs_BK, axis=-1, kind="stable")
    sorted_BK = np.take_along_axis(probs_BK, order_BK, axis=-1)
    before_BK = np.clip(np.cumsum(sorted_BK, axis=-1) - sorted_BK, 0.0, 1.0)
    scores_BK = np.empty_like(before_BK)
    np.put_along_axis(scores_BK, order_BK, before_BK, axis=-1)
    return scores_BK


def fit_quantile(
    probs_BK: Floats,
    labels_B: Labels,
    method: Method,
    coverage: float,
    kind: SetKind = "marginal",
) -> SetQuantile:
    """The ceil((B + 1) coverage)-th smallest score of the right classes (Vovk et al. 2005).

    Args:
        probs_BK: for images that the model was neither trained on nor chosen by.
        labels_B: their right classes.
        method: see `class_scores`.
        coverage: fraction of images whose set shall hold the right class.
        kind: whether it is so on average over all images, or over those of each class.
    """
    scores_B = class_scores(probs_BK, method)[np.arange(len(labels_B)), labels_B]
    if kind == "marginal":
        return SetQuantile(method=method, coverage=coverage, quantile=_quantile(scores_B, coverage))
    per_class = tuple(
        _quantile(scores_B[labels_B == label], coverage) for label in range(probs_BK.shape[1])
    )
    return SetQuantile(method=method, coverage=coverage, quantile=None, per_class=per_class)


def _quantile(scores_B: Floats, coverage: float) -> float | None:
    # As an integer: 0.95 * 20 is a little more than 19 in binary fractions.
    rank = math.ceil(round((len(scores_B) + 1) * coverage, 9))
    return float(np.sort(scores_B)[rank - 1]) if rank <= len(scores_B) else None


def fit_quantiles(
    probs_BK: Floats, labels_B: Labels, kind: SetKind = "marginal"
) -> tuple[SetQuantile, ...]:
    """One quantile, or one per class, for each method and coverage that bundles carry."""
    return tuple(
        fit_quantile(probs_BK, labels_B, method, coverage, kind)
        for method in METHODS
        for coverage in COVERAGES
    )


def covered_and_sizes(
    probs_BK: Floats, labels_B: Labels, quantile: SetQuantile
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """covered_B, whether each image's set holds the right class, and size_B, how many it names."""
    in_set_BK = prediction_sets(probs_BK, quantile)
    return in_set_BK[np.arange(len(labels_B)), labels_B], in_set_BK.sum(axis=1)


def prediction_sets(probs_BK: Floats, quantile: SetQuantile) -> NDArray[np.bool_]:
    """in_set_BK: which classes are in each image's set; the likeliest always is."""
    limits = (quantile.quantile,) if quantile.per_class is None else quantile.per_class
    limit_K = np.array([np.inf if limit is None else limit + _ROUNDING for limit in limits])
    in_set_BK = class_scores(probs_BK, quantile.method) <= limit_K
    np.put_along_axis(in_set_BK, probs_BK.argmax(axis=-1)[..., None], True, axis=-1)
    return np.asarray(in_set_BK)
