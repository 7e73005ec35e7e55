"""A connection's transport as the protocol needs it, and the clock that bounds every connection."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol


class GatheringTransport(asyncio.Transport):
    """Around another transport.

    Args:
        transport: sends.
        loop: of both.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._gathered: list[bytes] = []

    def write(self, data: Any) -> None:
        """Send these bytes, soon, with those of the same turn."""
        if not self._gathered:
            self._loop.call_soon(self._flush)
        self._gathered.append(data)

    def close(self) -> None:
        """Send what is written, then close."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._gathered.clear()
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether it is closing, or closed."""
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        """Take no more from the client."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take more again."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the transport knows of the connection."""
        return self._transport.get_extra_info(name, default)

    def _flush(self) -> None:
        if not self._gathered:
            return
        data = b"".join(self._gathered)
        self._gathered.clear()
        if not self._transport.is_closing():  # the client may have left in the same turn
            self._transport.write(data)


EVERY_S = 1.0


class Timed(Protocol):
    """A connection, as far as its time is concerned."""

    def look_at_the_clock(self, now: float) -> None:
        """End what has lasted too long; `now` is of the event loop's clock."""


class Timekeeper:
    """Looks at connections as long as there are any. For one event loop.

    Args:
        every_s: how often, seconds.
        on_tick: called as often, and once more when the last connection is lost.
    """

    def __init__(
        self, every_s: float = EVERY_S, on_tick: Callable[[], None] = lambda: None
    ) -> None:
        self._every_s = every_s
        self._on_tick = on_tick
        self._connections: set[Timed] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: Timed) -> None:
        """A connection was made."""
        self._connections.add(connection)
        if self._timer is None:
            self._start()

    def discard(self, connection: Timed) -> None:
        """It was lost."""
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
        self._on_tick()
