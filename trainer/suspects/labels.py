"""Labels that may be wrong: those that the probabilities of their picture speak against.

Shapes: N images, K classes, S suspects.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class SuspectLabels(NamedTuple):
    """The images whose label is not their most probable class, the least probable label first."""

    images_S: NDArray[np.int64]
    suggested_S: NDArray[np.int64]  # the most probable class
    doubt_S: NDArray[np.float64]  # how improbable the label is, in [0, 1]


def suspect_labels(
    probs_NK: NDArray[np.floating], labels_N: NDArray[np.int64], most: int
) -> SuspectLabels:
    """At most `most` images whose label is doubtful; the same doubt keeps their order.

    The order is that of self-confidence in confident learning (Northcutt et al. 2021,
    arXiv:1911.00068).

    Args:
        probs_NK: of networks that have not been taught the image's own label.
        labels_N: the labels as they are.
        most: a number of suspects.
    """
    doubt_N = 1 - probs_NK[np.arange(len(labels_N)), labels_N].astype(np.float64)
    suggested_N = probs_NK.argmax(axis=1)
    suspects_S = np.flatnonzero(suggested_N != labels_N)
    images_S = suspects_S[np.argsort(-doubt_N[suspects_S], kind="stable")][:most]
    return SuspectLabels(images_S, suggested_N[images_S], doubt_N[images_S])
