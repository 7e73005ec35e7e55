"""The members' distributions for an image -> their calibrated average and its uncertainty. Pure.

Shapes: d members asked, B images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from snapensemble.contracts.bundle import BundleManifest
from snapensemble.contracts.metrics import Floats, disagreement, entropy, mean_probabilities


@dataclass(frozen=True, slots=True)
class Summary:
    """The averaged answer for one image, and how sure it is."""

    probs_K: list[float]  # the calibrated average
    order_K: list[int]  # class indices, likeliest first
    entropy_nats: float
    disagreement_nats: float


def summaries(
    probs_dBK: Floats, bundle: BundleManifest, members: Sequence[int] | None = None
) -> list[Summary]:
    """One summary per image; together they take little longer than one of them.

    Args:
        probs_dBK: the distributions of the members asked.
        bundle: what is served.
        members: their places, where they are not the first ones.
    """
    probs_BK = averaged(probs_dBK, bundle, members)
    columns = (
        probs_BK,
        np.argsort(-probs_BK, axis=-1, kind="stable"),
        entropy(probs_BK),
        disagreement(probs_dBK, weights(bundle, len(probs_dBK), members)),
    )
    return [Summary(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def averaged(
    probs_dBK: Floats, bundle: BundleManifest, members: Sequence[int] | None = None
) -> Floats:
    """probs_BK: the calibrated average of the members asked; see `summaries`."""
    depth = len(probs_dBK)
    temperature = (
        bundle.temperature_of_first(depth) if members is None else bundle.temperature_of(members)
    )
    return mean_probabilities(probs_dBK, weights(bundle, depth, members), temperature)


def weights(bundle: BundleManifest, depth: int, members: Sequence[int] | None) -> list[float]:
    """weights_d of the members asked: the first `depth`, or those in these places."""
    return bundle.weights_of_first(depth) if members is None else bundle.weights_of(members)


def no_summaries(probs_dBK: Floats) -> Sequence[Summary | None]:
    """One None per image: nobody needs summaries."""
    return [None] * probs_dBK.shape[1]
