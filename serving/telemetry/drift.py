"""Whether answers are still like those to validation images, by the last of them."""

from collections import deque

import numpy as np

from snapensemble.contracts.drift import ReferenceRecord, population_stability_index

WINDOW = 1000  # answers that count
ENOUGH = 100  # answers without which nothing is said


class Drift:
    """Knows how sure the last answers were. For one thread.

    Args:
        reference: of the bundle that answers.
        window: how many of the last answers count.
        enough: how many there must be before an index means something.
    """

    def __init__(
        self, reference: ReferenceRecord, *, window: int = WINDOW, enough: int = ENOUGH
    ) -> None:
        self._of = {"confidence": reference.confidence, "disagreement": reference.disagreement}
        self._enough = enough
        self._last: deque[tuple[float, float]] = deque(maxlen=window)

    def __len__(self) -> int:
        """Answers that count now."""
        return len(self._last)

    def add(self, *, confidence: float, disagreement: float) -> None:
        """Count an answer, and forget the oldest if there are too many."""
        self._last.append((confidence, disagreement))

    def indices(self) -> dict[str, float]:
        """The population stability index of each quantity; empty while there are too few."""
        if len(self._last) < self._enough:
            return {}
        quantities = np.array(self._last).T
        return {
            name: population_stability_index(one.shares, one.counts_of(values_N))
            for (name, one), values_N in zip(self._of.items(), quantities, strict=True)
        }
