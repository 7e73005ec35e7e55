"""When a server stops: signals set it, handlers and the server's loop read it."""

import math
import os
import signal
import time
from types import FrameType


class Life:
    """Runs; drains, not ready but answering; is over: then the port closes.

    Args:
        drain_s: how long to drain after SIGTERM. SIGINT, a person at a terminal, skips it.
        second_ends: whether a second signal ends the process at once.
    """

    def __init__(self, drain_s: float = 0.0, *, second_ends: bool = True) -> None:
        self._drain_s = drain_s
        self._second_ends = second_ends
        self._over_at = math.inf

    @property
    def stopping(self) -> bool:
        """Whether a signal has come: do not send new work here."""
        return self._over_at < math.inf

    @property
    def over(self) -> bool:
        """Whether to stop listening."""
        return time.monotonic() >= self._over_at

    def stop(self, signum: int, _frame: FrameType | None = None) -> None:
        """A signal has come."""
        if not self.stopping:
            drain_s = self._drain_s if signum == signal.SIGTERM else 0.0
            self._over_at = time.monotonic() + drain_s
        elif self._second_ends:
            # Not by the signal's default: the first process of a container is immune to that.
            os._exit(128 + signum)
