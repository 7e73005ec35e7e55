"""The shutdown of a server: signals begin it, handlers and the server's loop ask how far it is."""

import math
import os
import signal
import threading
import time
from types import FrameType


class Shutdown:
    """Tells whether a server runs; or drains, not ready but answering; or must close its port.

    Args:
        drain_s: how long to drain after SIGTERM and SIGHUP. SIGINT, from a person at a terminal,
            skips it.
        shutdown_s: how long accepted requests may take after that.
        second_ends: whether a second signal ends the process at once.
    """

    def __init__(
        self, drain_s: float = 0.0, *, shutdown_s: float = 30.0, second_ends: bool = True
    ) -> None:
        self._drain_s = drain_s
        self._shutdown_s = shutdown_s
        self._second_ends = second_ends
        self.stopping = False  # whether a signal has come, so that no new work should
        self._over_at = math.inf
        self._stop_has_come = threading.Event()

    @property
    def over(self) -> bool:
        """Whether to stop listening."""
        return time.monotonic() >= self._over_at

    @property
    def left_s(self) -> float:
        """Seconds until accepted requests are cut off; without end before a signal."""
        return max(0.0, self._over_at + self._shutdown_s - time.monotonic())

    def wait_for_the_stop(self) -> None:
        """Wait until a signal has come, on any thread but the main one, which gets it."""
        self._stop_has_come.wait()

    def stop(self, signum: int, _frame: FrameType | None = None) -> None:
        """Begin the shutdown after a signal; a second one may end the process at once."""
        if not self.stopping:
            self._over_at = time.monotonic() + self.drain_s(signum)
            self.stopping = True
            self._stop_has_come.set()
        elif self._second_ends:
            # Not by the signal's default: the first process of a container is immune to that.
            os._exit(128 + signum)

    def drain_s(self, signum: int) -> float:
        """How long to drain after this signal, seconds."""
        return 0.0 if signum == signal.SIGINT else self._drain_s
