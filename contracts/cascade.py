"""A cascade asks its members in order, and an image leaves once its answer is safe.

Serving calls `Cascade.leaves` after each member; `run_cascade` applies the rule to images whose
outputs from all members are known, for fitting and for tests. All functions are pure.

Shapes: M members, d members asked so far, B images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from snapensemble.contracts.abstention import AbstentionRecord
from snapensemble.contracts.manifest import Fraction, NonNegative, Record, Temperature, ValFigures
from snapensemble.contracts.metrics import Floats, mean_probabilities
from snapensemble.contracts.prediction_sets import SetQuantile

LeaveRule = Literal["threshold", "interval"]
Mode = Literal["full", "cascade"]  # every member, or as many as an image needs
# Whether a limit is kept by a figure's one-sided confidence bound, or by the figure itself.
Promise = Literal["bound", "estimate"]


class CascadePoint(Record):
    """One choice of thresholds, with what it costs and what it gives."""

    # After 1, 2, ..., M - 1 members; None: no image leaves there.
    thresholds: tuple[NonNegative | None, ...]
    # Compared with asking every member:
    accuracy_drop: Fraction  # expected, see export.cascade
    nll_rise: float  # relative; below 0 if the cascade is better
    # Upper confidence bounds, of this point and all dearer ones the largest; None: not said.
    accuracy_drop_bound: Fraction | None = None
    nll_rise_bound: float | None = None
    # On the images that chose no thresholds:
    members_per_image: Annotated[float, Field(ge=1)]
    val: ValFigures
    sets: tuple[SetQuantile, ...] = ()
    abstention: AbstentionRecord | None = None


class CascadeRecord(Record):
    """When an image leaves the cascade. Points are in the order of their cost, cheapest first."""

    rule: LeaveRule
    temperatures: tuple[Temperature, ...]  # of the average after 1, 2, ..., M - 1 members
    max_accuracy_drop: Fraction  # the tolerance where a request names none
    max_nll_rise: NonNegative
    promise: Promise = "estimate"  # what keeps the limits
    confidence: Fraction | None = None  # of the bounds
    images: Annotated[int, Field(ge=1)] | None = None  # that were compared; None: not said
    points: Annotated[tuple[CascadePoint, ...], Field(min_length=1, max_length=1_000)]

    @model_validator(mode="after")
    def _bounds_are_there(self) -> "CascadeRecord":
        if self.promise == "bound" and (
            self.confidence is None
            or any(None in (p.accuracy_drop_bound, p.nll_rise_bound) for p in self.points)
        ):
            raise ValueError("a promise by bounds needs their confidence and two bounds per point")
        return self

    @model_validator(mode="after")
    def _an_interval_needs_two(self) -> "CascadeRecord":
        if self.rule == "interval" and any(
            point.thresholds[:1] != (None,) for point in self.points
        ):
            raise ValueError(
                "the rule `interval` cannot let anybody leave after one member, which has no spread"
            )
        return self

    def point(self, max_accuracy_drop: float | None = None) -> CascadePoint:
        """The cheapest point within the tolerance; if none is, the one with the most members.

        Where bounds keep the limits, this is a fixed sequence of tests, from the dearest point to
        the first that fails: for a tolerance that does not come from the same images, the point is
        beyond it with a probability of at most 1 - `confidence`.
        """
        limit = self.max_accuracy_drop if max_accuracy_drop is None else max_accuracy_drop
        for point in self.points:
            drop, rise = self.kept_by(point)
            if drop <= limit and rise <= self.max_nll_rise:
                return point
        return self.points[-1]

    def kept_by(self, point: CascadePoint) -> tuple[float, float]:
        """The drop in accuracy and the rise of the NLL that are compared with the limits."""
        drop, rise = point.accuracy_drop_bound, point.nll_rise_bound
        if self.promise == "estimate" or drop is None or rise is None:
            return point.accuracy_drop, point.nll_rise
        return drop, rise

    def at(self, point: CascadePoint, weights_M: Sequence[float]) -> "Cascade":
        """The rule with the thresholds of one of the points."""
        return Cascade(
            rule=self.rule,
            thresholds=point.thresholds,
            temperatures=self.temperatures,
            weights_M=weights_M,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade:
    """A rule that is ready for use; thresholds and temperatures begin with one member asked."""

    rule: LeaveRule
    thresholds: Sequence[float | None]  # M - 1
    temperatures: Sequence[float]  # M - 1
    weights_M: Sequence[float]

    def leaves(self, probs_dBK: Floats) -> NDArray[np.bool_]:
        """leaves_B: which images have a safe answer after d members, where d is below M."""
        depth, images = probs_dBK.shape[:2]
        threshold = self.thresholds[depth - 1]
        if threshold is None:
            return np.zeros(images, dtype=bool)
        weights_d = first_weights(self.weights_M, depth)
        if self.rule == "threshold":
            probs_BK = mean_probabilities(probs_dBK, weights_d, self.temperatures[depth - 1])
            return np.asarray(margin(probs_BK) >= threshold)
        return _interval_excludes_a_tie(probs_dBK, weights_d, threshold)


def first_weights(weights_M: Sequence[float], depth: int) -> list[float]:
    """The weights of the first `depth` members, summing to 1."""
    total = sum(weights_M[:depth])
    return [weight / total for weight in weights_M[:depth]]


def margin(probs_BK: Floats) -> Floats:
    """How much likelier the first class is than the second: 0 if they tie."""
    top_B2 = np.partition(probs_BK, -2, axis=-1)[..., -2:]
    return np.asarray(top_B2[..., 1] - top_B2[..., 0])


def run_cascade(
    probs_MBK: Floats, cascade: Cascade, temperature: float
) -> tuple[Floats, NDArray[np.int64]]:
    """The answers of a cascade to images whose outputs from all members are known.

    Args:
        probs_MBK: one distribution per member and image.
        cascade: the rule.
        temperature: of the average of all members.

    Returns:
        probs_BK, each row the calibrated average of the members that were asked, and used_B, how
        many that were.
    """
    M, B, K = probs_MBK.shape
    answers_BK, used_B = np.empty((B, K)), np.empty(B, dtype=np.int64)
    inside_B = np.arange(B)
    for depth in range(1, M + 1):
        probs_dBK = probs_MBK[:depth, inside_B]
        last = depth == M
        leaves_B = np.ones(len(inside_B), bool) if last else cascade.leaves(probs_dBK)
        leaving_B = inside_B[leaves_B]
        answers_BK[leaving_B] = mean_probabilities(
            probs_dBK[:, leaves_B],
            first_weights(cascade.weights_M, depth),
            temperature if last else cascade.temperatures[depth - 1],
        )
        used_B[leaving_B] = depth
        inside_B = inside_B[~leaves_B]
    return answers_BK, used_B


def _interval_excludes_a_tie(
    probs_dBK: Floats, weights_d: Sequence[float], multiplier: float
) -> NDArray[np.bool_]:
    """Whether the members agree clearly enough that the first class leads the second.

    After Inoue (2019): stop where the confidence interval of the mean over members excludes that
    another class is likelier. `multiplier` is Student's t quantile over the root of d.
    """
    mean_BK = mean_probabilities(probs_dBK, weights_d)
    first_B, second_B = np.argsort(-mean_BK, axis=-1, kind="stable")[:, :2].T
    rows_B = np.arange(mean_BK.shape[0])
    leads_dB = probs_dBK[:, rows_B, first_B] - probs_dBK[:, rows_B, second_B]
    mean_lead_B = mean_BK[rows_B, first_B] - mean_BK[rows_B, second_B]
    return np.asarray(mean_lead_B > multiplier * leads_dB.std(axis=0, ddof=1))
