"""The timekeeper lets no connection stay in any state for longer than that state may last.

One clock looks at all connections once a second: a timer for each request would cost more than the
rest of what a protocol does for it.
"""

import asyncio
from typing import Protocol

EVERY_S = 1.0


class Timed(Protocol):
    """A connection, as far as its time is concerned."""

    def look_at_the_clock(self, now: float) -> None:
        """End what has lasted too long; `now` is of the event loop's clock."""


class Timekeeper:
    """Looks at the connections of one event loop as long as there are any.

    Args:
        every_s: how often, seconds.
    """

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._connections: set[Timed] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: Timed) -> None:
        """Begin to look at a connection that was made."""
        self._connections.add(connection)
        if self._timer is None:
            self._start()

    def discard(self, connection: Timed) -> None:
        """Stop looking at a connection that was lost."""
        self._connections.discard(connection)

    def _start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._connections:
            self._start()
        now = asyncio.get_running_loop().time()
        for connection in list(self._connections):
            connection.look_at_the_clock(now)
