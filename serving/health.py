"""Which members fail again and again: then the ensemble is not what it promises to be."""

import threading
from collections.abc import Sequence

from snapensemble.serving.inference.batch import BatchReport

TOO_MANY = 3  # micro-batches in a row; one alone may be bad luck


class MemberHealth:
    """Counts how often each member has failed since it last answered. Safe from any thread."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._failures = [0] * len(names)
        self._lock = threading.Lock()

    def batch(self, report: BatchReport) -> None:
        """Take note of a finished micro-batch; members that it did not ask are not judged."""
        with self._lock:
            for member in report.members_answered:
                self._failures[member] = 0
            for member in report.members_failed:
                self._failures[member] += 1

    @property
    def failing(self) -> list[str]:
        """The names of members whose last few micro-batches have all failed."""
        return [
            name
            for name, failures in zip(self._names, self._failures, strict=True)
            if failures >= TOO_MANY
        ]
