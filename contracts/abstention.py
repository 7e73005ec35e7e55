"""Selective classification: an answer is given only where it is sure enough to keep a promise.

An image is answered if the largest of its averaged, calibrated probabilities exceeds a threshold.
For each threshold there is an upper confidence bound on the share of wrong answers among those
that are given; it holds for images drawn like those that were counted (Geifman & El-Yaniv 2017,
"Selective classification for deep neural networks", section 3).

Shapes: B images, K classes.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from snapensemble.contracts.manifest import Fraction, Record
from snapensemble.contracts.metrics import Floats

RISKS = (0.01, 0.02, 0.05, 0.1, 0.2)  # that people are shown


class AbstentionPoint(Record):
    """What a threshold promises, and how many images it leaves an answer."""

    threshold: Fraction | None  # of the largest probability; None: every image is answered
    answered: Fraction  # share of the images that were counted
    errors: Annotated[int, Field(ge=0)]  # wrong answers among these
    error_bound: Fraction  # on their share among all answers that are given


class AbstentionRecord(Record):
    """Thresholds, the lowest first; with probability `confidence` all their bounds hold at once."""

    confidence: Annotated[float, Field(gt=0, lt=1)]
    images: Annotated[int, Field(ge=1)]
    points: Annotated[tuple[AbstentionPoint, ...], Field(min_length=1, max_length=100)]

    def at(self, risk: float) -> AbstentionPoint | None:
        """The point that answers the most images at no more than this share of wrong answers.

        Args:
            risk: the largest share of wrong answers among those that are given. It may be chosen
                after a look at the points, since their bounds hold together.

        Returns:
            None if no point promises so few.
        """
        return next((point for point in self.points if point.error_bound <= risk + 1e-12), None)

    @property
    def lowest_risk(self) -> float:
        """The smallest share of wrong answers that can be asked for, in whole hundredths of 1 %."""
        return math.ceil(1e4 * min(point.error_bound for point in self.points)) / 1e4


def answered(point: AbstentionPoint, probs_BK: Floats) -> NDArray[np.bool_]:
    """answered_B: which images with these averaged, calibrated probabilities are answered."""
    threshold = -np.inf if point.threshold is None else point.threshold
    return np.asarray(probs_BK.max(axis=-1) > threshold)


def answers(point: AbstentionPoint, probs_K: Sequence[float]) -> bool:
    """Whether an image with these averaged, calibrated probabilities is answered."""
    return bool(answered(point, np.array(probs_K)))
