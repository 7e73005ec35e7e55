"""Whether answers are still like those to validation images, by the last of them."""

from collections import deque

import numpy as np

from contracts.drift import ReferenceRecord, population_stability_index

WINDOW = 1000  # answers that count
ENOUGH = 100  # answers without which nothing is said


class Drift:
    """Counts the last answers in the bins of the reference. For one thread.

    Args:
        reference: of the bundle that answers.
        window: how many of the last answers count.
        enough: how many there must be before an index means something.
    """

    def __init__(
        self, reference: ReferenceRecord, *, window: int = WINDOW, enough: int = ENOUGH
    ) -> None:
        self._of = {"confidence": reference.confidence, "disagreement": reference.disagreement}
        self._window = window
        self._enough = enough
        self._last: deque[dict[str, int]] = deque()
        self._counts = {name: np.zeros(len(one.shares), int) for name, one in self._of.items()}

    def __len__(self) -> int:
        """Answers that count now."""
        return len(self._last)

    def add(self, *, confidence: float, disagreement: float) -> None:
        """Count an answer, and forget the oldest if there are too many."""
        values = {"confidence": confidence, "disagreement": disagreement}
        bins = {name: self._of[name].bin_of(value) for name, value in values.items()}
        self._last.append(bins)
        for name, index in bins.items():
            self._counts[name][index] += 1
        if len(self._last) > self._window:
            for name, index in self._last.popleft().items():
                self._counts[name][index] -= 1

    def indices(self) -> dict[str, float]:
        """The population stability index of each quantity; empty while there are too few."""
        if len(self._last) < self._enough:
            return {}
        return {
            name: population_stability_index(one.shares, self._counts[name])
            for name, one in self._of.items()
        }
