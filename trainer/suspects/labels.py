"""Labels that may be wrong: those that the probabilities of their picture speak against.

Shapes: N images, K classes, S suspects.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class SuspectLabels(NamedTuple):
    """The images whose label is not their most probable class, the most suspicious first."""

    images_S: NDArray[np.int64]
    suggested_S: NDArray[np.int64]  # the most probable class
    score_S: NDArray[np.float64]  # in (0, 1]: how much more probable it is than the label


def doubts(probs_NK: NDArray[np.floating], labels_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """How much more probable the best other class is than the label: in [-1, 1].

    It is the margin of confident learning, turned round (Northcutt et al. 2021, arXiv:1911.00068).

    Args:
        probs_NK: of networks that have not been taught the image's own label.
        labels_N: the labels as they are.
    """
    others_NK = np.array(probs_NK, dtype=np.float64)
    rows = np.arange(len(labels_N))
    given_N = others_NK[rows, labels_N]
    others_NK[rows, labels_N] = -1
    doubts_N: NDArray[np.float64] = others_NK.max(axis=1) - given_N
    return doubts_N


def suspect_labels(
    probs_NK: NDArray[np.floating], labels_N: NDArray[np.int64], most: int
) -> SuspectLabels:
    """At most `most` images whose label is doubtful; the same doubt keeps their order."""
    doubts_N = doubts(probs_NK, labels_N)
    images_S = np.argsort(-doubts_N, kind="stable")[: min(most, int((doubts_N > 0).sum()))]
    return SuspectLabels(images_S, probs_NK[images_S].argmax(axis=1), doubts_N[images_S])
