"""The numbers behind the charts: arrays in, arrays out, nothing is drawn here.

Shapes: S snapshots, N validation images, K classes, T points of a curve.
"""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betaincinv

from snapensemble.contracts.manifest import ValFigures
from snapensemble.contracts.metrics import Floats, Labels, softmax, summary, val_figures

Indices = NDArray[np.int64]
CONFIDENCE = 0.95  # two-sided, of intervals


def snapshot_summaries(logits_SNK: NDArray[np.float32], labels_N: Labels) -> list[dict[str, float]]:
    """Accuracy, NLL, ECE and Brier score of each snapshot alone."""
    return [summary(softmax(logits_NK), labels_N) for logits_NK in logits_SNK]


def growing_ensemble(
    logits_SNK: NDArray[np.float32], labels_N: Labels, order: Sequence[int]
) -> list[ValFigures]:
    """Figures of the averaged probabilities of the first 1, 2, ..., S snapshots of `order`.

    One snapshot at a time is in memory as probabilities, so that many snapshots of many classes
    fit.
    """
    figures, sum_NK = [], np.zeros(logits_SNK.shape[1:])
    for m, index in enumerate(order, start=1):
        sum_NK += softmax(logits_SNK[index])
        figures.append(val_figures(np.minimum(sum_NK / m, 1.0), labels_N))
    return figures


def pairwise_disagreement(scores_SNK: NDArray[np.floating]) -> Floats:
    """disagreement_SS: the fraction of images on which the top classes of two networks differ.

    The scores may be logits or probabilities, since both have the same top class.
    """
    top_SN = scores_SNK.argmax(axis=2)
    rows = [(top_SN != top_N).mean(axis=1) for top_N in top_SN]
    return np.array(rows, dtype=np.float64).reshape(len(top_SN), len(top_SN))


def share_interval(count: int, images: int) -> tuple[float, float]:
    """The exact two-sided 95 % confidence interval of a share (Clopper & Pearson 1934)."""
    one_sided = (1 + CONFIDENCE) / 2
    return lowest_share(count, images, one_sided), highest_share(count, images, one_sided)


def lowest_share(count: int, images: int, confidence: float = CONFIDENCE) -> float:
    """The exact one-sided lower confidence bound on a share (Clopper & Pearson 1934)."""
    return float(betaincinv(count, images - count + 1, 1 - confidence)) if count else 0.0


def highest_share(count: int, images: int, confidence: float = CONFIDENCE) -> float:
    """The exact one-sided upper confidence bound on a share (Clopper & Pearson 1934)."""
    return float(betaincinv(count + 1, images - count, confidence)) if count < images else 1.0


def auroc_interval(auroc: float, own: int, others: int) -> tuple[float, float]:
    """The two-sided 95 % confidence interval of an area under the ROC curve.

    A limit is where the area lies as many standard errors away as such an interval has, by the
    variance of Hanley & McNeil (1982) at the limit itself (Newcombe 2006, method 5). It therefore
    stays within 0 and 1, and an area of 1 has an interval too.

    Args:
        auroc: as measured, in 0 to 1.
        own: how many scores should be low.
        others: how many should be high.
    """
    z, pairs = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), (own + others) / 2 - 1

    def excess(limit: float) -> float:
        spread = 1 + pairs * ((1 - limit) / (2 - limit) + limit / (1 + limit))
        return abs(limit - auroc) - z * sqrt(limit * (1 - limit) * spread / (own * others))

    inside = min(max(auroc, 1e-12), 1 - 1e-12)  # at 0 and 1 themselves nothing varies
    low = float(brentq(excess, 0, inside)) if auroc > 0 else 0.0
    high = float(brentq(excess, inside, 1)) if auroc < 1 else 1.0
    return low, high


def pairs_of(disagreement_SS: Floats) -> Floats:
    """The disagreement of each two networks, each pair once."""
    return np.asarray(disagreement_SS[np.triu_indices(len(disagreement_SS), k=1)])


def trailing_mean(values_T: Floats, window: int) -> Floats:
    """Each value averaged with up to `window` - 1 values before it."""
    total = np.concatenate([[0.0], np.cumsum(values_T)])
    end = np.arange(1, len(values_T) + 1)
    start = np.maximum(end - window, 0)
    return np.asarray((total[end] - total[start]) / (end - start))


def smoothing_window(steps: int, steps_per_epoch: int) -> int:
    """How many steps to average: an epoch, but little of a long curve, so restarts stay visible."""
    return min(steps_per_epoch, max(10, steps // 50))


def thinned(values_T: Floats, columns: int = 1000) -> Indices:
    """Which points to draw: of each of `columns` equal parts the first, lowest, highest and last.

    A line through these looks as the line through all points does (the M4 aggregation of
    Jugel et al. 2014): no peak and no restart is lost.
    """
    if len(values_T) <= 4 * columns:
        return np.arange(len(values_T))
    edges = np.linspace(0, len(values_T), columns + 1).astype(np.int64)
    kept: set[int] = set()
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        part = values_T[start:end]
        kept |= {start, start + int(part.argmin()), start + int(part.argmax()), end - 1}
    return np.array(sorted(kept), dtype=np.int64)
