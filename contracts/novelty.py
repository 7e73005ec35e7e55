"""Novelty: how far a picture's features are from those of the pictures that taught.

The distance is 1 less the cosine between an image's features, which the first member's last layer
reads, and the nearest mean of a class (a nearest-mean form of deep nearest neighbours: Sun et al.
2022, "Out-of-distribution detection with deep nearest neighbors"). A threshold is a conformal
quantile of the distances of images that taught and chose nothing: of images that are drawn like
these, at most the promised share is called novel. How many of the others are is not promised.

All functions are pure. Shapes: N images, C features, K classes.
"""

import math
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from snapensemble.contracts.manifest import Record
from snapensemble.contracts.metrics import Floats, Labels

FALSE_ALARMS = (0.01, 0.02, 0.05, 0.1)
Vectors = NDArray[np.floating]
Distance = Annotated[float, Field(ge=0, le=2)]


class NoveltyThreshold(Record):
    """Beyond which distance a picture is called novel."""

    false_alarms: Annotated[float, Field(gt=0, lt=1)]  # share of images like the known ones
    distance: Distance


class NoveltyRecord(Record):
    """What is promised of pictures like the known ones, by rising share of false alarms."""

    images: Annotated[int, Field(ge=1)]  # that the thresholds come from
    # Empty: there are too few images to promise any of the shares.
    thresholds: Annotated[tuple[NoveltyThreshold, ...], Field(max_length=100)]

    def at(self, false_alarms: float) -> NoveltyThreshold | None:
        """The threshold of the largest share of false alarms that is no larger than this one."""
        within = [each for each in self.thresholds if each.false_alarms <= false_alarms + 1e-12]
        return within[-1] if within else None


def directions(features_NC: Vectors, labels_N: Labels, classes: int) -> Floats:
    """directions_KC, of length 1: the mean direction of each class's features.

    A class without images has the zero vector, from which everything is at distance 1.
    """
    unit_NC = _unit(features_NC)
    sums_KC = np.zeros((classes, features_NC.shape[1]))
    np.add.at(sums_KC, labels_N, unit_NC)
    return _unit(sums_KC)


def distances(features_NC: Vectors, directions_KC: Vectors) -> Floats:
    """distances_N from the nearest class, in 0 to 2."""
    cosines_NK = _unit(features_NC) @ np.asarray(directions_KC, dtype=np.float64).T
    distances_N: Floats = np.clip(1 - cosines_NK.max(axis=1), 0, 2)
    return distances_N


def fit_thresholds(distances_N: Floats) -> NoveltyRecord:
    """The ceil((N + 1) (1 - share))-th smallest distance, for each share that N images allow.

    Args:
        distances_N: of images that the members were neither taught nor chosen by.
    """
    rising_N, N = np.sort(distances_N), len(distances_N)
    thresholds = []
    for share in FALSE_ALARMS:
        rank = math.ceil(round((N + 1) * (1 - share), 9))
        if rank <= N:
            distance = float(rising_N[rank - 1])
            thresholds.append(NoveltyThreshold(false_alarms=share, distance=distance))
    return NoveltyRecord(images=N, thresholds=tuple(thresholds))


def _unit(vectors_NC: Vectors) -> Floats:
    exact_NC = np.asarray(vectors_NC, dtype=np.float64)
    lengths_N = np.linalg.norm(exact_NC, axis=1, keepdims=True)
    unit_NC: Floats = exact_NC / np.where(lengths_N > 0, lengths_N, 1)
    return unit_NC
