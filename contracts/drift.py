"""How far answers have moved from those to validation images: the population stability index.

All functions are pure. Shapes: N images.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from snapensemble.contracts.manifest import Fraction, Record
from snapensemble.contracts.metrics import Floats

BINS = 10
# An empty bin counts as this share, or one image in it would be infinitely far off.
_SMALLEST_SHARE = 1e-4
# An image answered in another batch differs in its last bits; it must not change its bin for that.
_DECIMALS = 6


class ReferenceShares(Record):
    """The share of the images that is in each bin of one quantity."""

    edges: Annotated[tuple[float, ...], Field(min_length=1)]  # rising; each is in the bin above
    shares: tuple[Fraction, ...]  # one more than edges

    @model_validator(mode="after")
    def _edges_and_shares_fit(self) -> "ReferenceShares":
        if any(low >= high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("the edges must rise")
        if len(self.shares) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} edges make {len(self.edges) + 1} bins")
        if not math.isclose(sum(self.shares), 1.0, abs_tol=1e-9):
            raise ValueError("the shares must sum to 1")
        return self

    def counts_of(self, values_N: Floats) -> NDArray[np.integer]:
        """How many values are in each bin; every number is in one."""
        return _counts(np.array(self.edges), np.round(values_N, _DECIMALS))


class ReferenceRecord(Record):
    """How sure the full ensemble was of images that had chosen nothing."""

    images: Annotated[int, Field(ge=1)]
    confidence: ReferenceShares  # probability of the likeliest class
    disagreement: ReferenceShares  # of the members, nats


def shares_of(values_N: Floats) -> ReferenceShares:
    """Divide values into bins of about equally many; values that repeat often make fewer bins."""
    rounded_N = np.round(values_N, _DECIMALS)
    edges = np.unique(np.round(np.quantile(rounded_N, np.arange(1, BINS) / BINS), _DECIMALS))
    shares = _counts(edges, rounded_N) / len(values_N)
    return ReferenceShares(edges=tuple(edges.tolist()), shares=tuple(shares.tolist()))


def population_stability_index(
    reference_shares: Sequence[float], served_counts: Sequence[int] | NDArray[np.integer]
) -> float:
    """How far counts are from reference shares: the sum of (s - r) ln(s / r) over bins.

    The symmetric Kullback-Leibler divergence (Jeffreys 1946). 0 if the shares are the same. By
    chance alone it is about (bins - 1) (1 / served + 1 / reference images).

    Args:
        reference_shares: fraction of the reference images in each bin.
        served_counts: served images in each of the same bins; at least one count is not 0.
    """
    counts = np.asarray(served_counts, dtype=np.float64)
    served = np.maximum(counts / counts.sum(), _SMALLEST_SHARE)
    reference = np.maximum(np.asarray(reference_shares, dtype=np.float64), _SMALLEST_SHARE)
    return float(((served - reference) * np.log(served / reference)).sum())


def _counts(edges: Floats, rounded_N: Floats) -> NDArray[np.integer]:
    bins_N = np.searchsorted(edges, rounded_N, side="right")
    return np.bincount(bins_N, minlength=len(edges) + 1)
