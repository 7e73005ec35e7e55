"""When a server stops: signals set it, handlers and the server's loop read it."""

import math
import os
import signal
import time
from types import FrameType

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.crowd import is_crowded


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


class CloseInTime:
    """Ends connections with an answer: all once the server stops, before that those too many."""

    def __init__(self, app: ASGIApp, life: Life) -> None:
        self._app = app
        self._life = life

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and (
                self._life.stopping or is_crowded(scope)
            ):
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        await self._app(scope, receive, closing)
