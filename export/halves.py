"""Validation split once in two: one half chooses, the other tells how good the choice is. Pure.

Members, temperature and cascade are fitted on the selection half. The calibration half has chosen
nothing, so its figures flatter nobody and prediction sets cover what they promise.

Shapes: N images.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import InvalidConfig
from contracts.figures import Labels

_SEED = 0  # the same halves for every export, so that figures can be compared


@dataclass(frozen=True, slots=True)
class Halves:
    """Indices of validation images."""

    selection_N: NDArray[np.intp]
    calibration_N: NDArray[np.intp]


def halves(labels_N: Labels) -> Halves:
    """Two random halves with like shares of each class; the selection half has the odd image.

    Raises:
        InvalidConfig: one image cannot be split.
    """
    if len(labels_N) < 2:
        raise InvalidConfig(
            f"the run validates on {len(labels_N)} image; at least 2 are needed, one to choose and "
            "one to measure; train with a larger --val-fraction"
        )
    shuffled_N = np.random.default_rng(_SEED).permutation(len(labels_N))
    by_class_N = shuffled_N[np.argsort(labels_N[shuffled_N], kind="stable")]
    return Halves(np.sort(by_class_N[0::2]), np.sort(by_class_N[1::2]))
