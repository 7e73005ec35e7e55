"""Time that adds up."""

import time


class Clock:
    """Where the time of a lane goes, without gaps: under load much of it is waiting for a turn."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def lap(self) -> float:
        """Seconds since the last time."""
        now = time.monotonic()
        since, self._since = self._since, now
        return now - since
