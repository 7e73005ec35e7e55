"""Upper confidence bounds on the mean of losses that are rare or have heavy tails. Pure.

Differences between two ensembles are 0 or next to it for most images and large for a few, to both
sides. Student's t bound is too low there: what is rare may be absent from the sample, and then the
sample's deviation is too small as well.

Shapes: N images.
"""

import math

import numpy as np
from scipy.special import gammaincinv

from snapensemble.contracts.abstention import AbstentionPoint, AbstentionRecord
from snapensemble.contracts.metrics import SMALLEST_NLL, Floats, Labels
from snapensemble.report.figures import highest_share

CONFIDENCE = 0.95  # one-sided of bounds, two-sided of intervals
ANSWERED = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # shares of the images
_MOST = 100.0  # as a relative rise of the NLL, and as many times the images at hand


def upper_bound(
    losses_N: Floats, largest: float, times: float = 1.0, confidence: float = CONFIDENCE
) -> float:
    """The one-sided upper confidence bound on the mean loss of images drawn alike.

    What is lost and what is gained have bounds of their own, each a weighted sum of Poisson counts
    (Fay & Feuer 1997), which is exact where all weights are equal, also if there are none. The two
    are joined as Zou & Donner (2008) join the bounds of a difference.

    Args:
        losses_N: one per image; gains are below 0.
        largest: the loss that an image may have which none of these has, at least 0.
        times: as if every image were there so many times.
        confidence: with which it holds.
    """
    N = len(losses_N)
    lost_N, gained_N = np.maximum(losses_N, 0), np.maximum(-losses_N, 0)
    largest = max(largest, float(lost_N.max()))
    lost, gained = lost_N.sum() * times, gained_N.sum() * times
    most_lost = _gamma_quantile(confidence, lost + largest, (lost_N**2).sum() * times + largest**2)
    least_gained = _gamma_quantile(1 - confidence, gained, (gained_N**2).sum() * times)
    bound = lost - gained + math.hypot(most_lost - lost, gained - least_gained)
    return float(bound / (N * times))


def paired_interval(gains_N: Floats, largest: float = 0.0) -> tuple[float, float, float]:
    """The mean of paired differences and its two-sided 95 % interval, a bound to either side.

    Args:
        gains_N: one per image.
        largest: the difference to either side that an image may have; 0: as those of these.
    """
    each, most = (1 + CONFIDENCE) / 2, largest or math.inf
    low, high = (upper_bound(side * gains_N, largest, confidence=each) for side in (-1, 1))
    return float(gains_N.mean()), max(-low, -most), min(high, most)


def nll_rise_bound(rises_N: Floats, before_N: Floats, largest: float) -> float:
    """The upper confidence bound on how much an NLL rises, relative to what it was.

    What the NLL was is estimated as well, so the bound is the smallest limit for which the mean of
    rise - limit * before is bounded by 0 (Fieller 1954).

    Args:
        rises_N: the image's NLL afterwards less that before.
        before_N: the image's NLL before.
        largest: the rise of an image that none of these has.
    """
    before_N = nll_scale(before_N)
    low, high = -1.0, _MOST
    if upper_bound(rises_N - high * before_N, largest) > 0:
        return high
    while high - low > 1e-5:
        middle = (low + high) / 2
        if upper_bound(rises_N - middle * before_N, largest) > 0:
            low = middle
        else:
            high = middle
    return high


def nll_scale(before_N: Floats) -> Floats:
    """What a rise is relative to: see `contracts.metrics.nll_rise`."""
    return before_N if before_N.mean() >= SMALLEST_NLL else np.full(len(before_N), SMALLEST_NLL)


def images_needed(losses_N: Floats, largest: float, limit: float) -> int | None:
    """How many images would bound the mean loss by a limit, if they were like these.

    Returns:
        None if the mean loss itself is at the limit or beyond, or no reasonable number will do.
    """

    def bounded(times: float) -> bool:
        return upper_bound(losses_N, largest, times) <= limit

    if losses_N.mean() >= limit or not bounded(_MOST**2):
        return None
    low, high = 0.0, _MOST**2
    while high / max(low, 1 / len(losses_N)) > 1.01:
        middle = math.sqrt(max(low, 1 / len(losses_N)) * high)
        low, high = (low, middle) if bounded(middle) else (middle, high)
    return math.ceil(high * len(losses_N))


def bound_errors(probs_NK: Floats, labels_N: Labels) -> AbstentionRecord:
    """Upper bounds on the share of wrong answers where only the surest images are answered.

    A threshold is a confidence that was seen, of the image in a place that is fixed beforehand. The
    surer images are then drawn independently from all that are surer than it, and their wrong
    answers are binomial (Geifman & El-Yaniv 2017). The chance of error is divided equally among
    the places (Bonferroni), so that all bounds hold at once, also of a threshold chosen by them.

    Args:
        probs_NK: averaged and calibrated, of images that had no part in either.
        labels_N: the right classes.
    """
    N, sure_N = len(labels_N), probs_NK.max(axis=1)
    wrong_N = probs_NK.argmax(axis=1) != labels_N
    falling_N = np.sort(sure_N)[::-1]
    points = []
    for share in ANSWERED:
        threshold = None if share == 1 else float(falling_N[math.ceil(share * N) - 1])
        given_N = np.ones(N, bool) if threshold is None else sure_N > threshold
        given, errors = int(given_N.sum()), int(wrong_N[given_N].sum())
        if given:
            bound = highest_share(errors, given, 1 - (1 - CONFIDENCE) / len(ANSWERED))
            points.append(
                AbstentionPoint(
                    threshold=threshold, answered=given / N, errors=errors, error_bound=bound
                )
            )
    return AbstentionRecord(confidence=CONFIDENCE, images=N, points=tuple(points))


def _gamma_quantile(level: float, mean: float, variance: float) -> float:
    """The quantile of the gamma distribution with this mean and variance; 0 if the mean is 0."""
    return float(gammaincinv(mean**2 / variance, level) * variance / mean) if mean > 0 else 0.0
