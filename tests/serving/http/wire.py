"""A connection without sockets: a test decides what comes in which piece, and when it is lost."""

import asyncio
import sys
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.server import ServerState

from snapensemble.serving.http.protocol import GuardedProtocol
from snapensemble.serving.http.timekeeper import Timekeeper
from snapensemble.serving.process.server import uvicorn_config


class Transport(asyncio.Transport):
    """The server's end of a connection, which keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.is_reading_paused = False
        self.was_aborted = False
        self.takes_no_more = False  # a client that does not read: closing waits for it
        self.untaken = 0  # bytes of what is written that are not sent
        self.protocol: GuardedProtocol | None = None
        self._is_closing = False
        self._is_lost = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)

    def get_write_buffer_size(self) -> int:
        return self.untaken

    def write(self, data: Any) -> None:
        if not self._is_closing:
            self.written += data

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True
        if not self.takes_no_more:
            asyncio.get_running_loop().call_soon(self.lose)

    def write_eof(self) -> None:  # which a client answers by hanging up
        self.close()

    def abort(self) -> None:
        self.was_aborted = self._is_closing = True
        asyncio.get_running_loop().call_soon(self.lose)

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False

    def lose(self) -> None:
        """Break the connection."""
        if not self._is_lost:
            self._is_lost = self._is_closing = True
            assert self.protocol is not None
            self.protocol.connection_lost(None)


class Wire:
    """Connections to an application, on the running event loop.

    Args:
        app: the application.
        limits: arguments of `GuardedProtocol`, such as `max_connections`.
    """

    def __init__(self, app: FastAPI, **limits: Any) -> None:
        self.app = app
        self.state = ServerState()
        self.timekeeper = Timekeeper()
        self._ends: list[End] = []
        http = partial(GuardedProtocol, room=sys.maxsize)
        self._config: uvicorn.Config = uvicorn_config(app, http, timeout_keep_alive=75)
        self._config.load()
        self._new = partial(
            http,
            config=self._config,
            server_state=self.state,
            app_state={},
            memory=app.state.service.model().admission.memory,
            timekeeper=self.timekeeper,
            on_refusal=app.state.metrics.refused,
            **limits,
        )

    def connect(self) -> "End":
        """Open a new connection."""
        transport = Transport()
        transport.protocol = self._new(_loop=asyncio.get_running_loop())
        transport.protocol.connection_made(transport)
        self._ends.append(End(transport, transport.protocol))
        return self._ends[-1]

    def lose_all(self) -> None:
        """Break all connections."""
        for end in self._ends:
            end.leave()
        self._ends.clear()

    async def settle(self) -> None:
        """Wait until no request is under way."""
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            while self.state.tasks:
                await asyncio.wait(self.state.tasks)
                await asyncio.sleep(0)  # a request that has waited behind it may begin
                await asyncio.sleep(0)

    async def give_back(self) -> None:
        """Wait until nothing is held: a lane may still decode for a client that left."""
        await self.settle()
        async with asyncio.timeout(30):
            while self.holds != (0, 0, 0):
                await asyncio.sleep(0.001)

    @property
    def holds(self) -> tuple[int, int, int]:
        """How many bytes, images and requests count now."""
        admission = self.app.state.service.model().admission
        return admission.memory.held, admission.images, admission.requests


class End:
    """The client's end of one connection."""

    def __init__(self, transport: Transport, protocol: GuardedProtocol) -> None:
        self.transport = transport
        self.protocol = protocol

    def send(self, *pieces: bytes) -> None:
        """Send each piece by itself, and none after the connection is closed."""
        for piece in pieces:
            if not self.transport.is_closing():
                self.protocol.data_received(piece)

    def leave(self) -> None:
        """Hang up."""
        self.transport.lose()

    @property
    def answers(self) -> list[tuple[int, dict[bytes, bytes], bytes]]:
        """Status, headers and body of each answer that has come so far."""
        found, rest = [], bytes(self.transport.written)
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            line, *lines = head.split(b"\r\n")
            headers = dict(one.split(b": ", 1) for one in lines)
            size = int(headers.get(b"content-length", b"0"))
            if not line.startswith(b"HTTP/1.1 100"):
                found.append((int(line.split()[1]), headers, rest[:size]))
                rest = rest[size:]
        return found

    @property
    def statuses(self) -> list[int]:
        """The status of each answer that has come so far."""
        return [status for status, _, _ in self.answers]

    @property
    def identities(self) -> list[bytes | None]:
        """The request id of each answer that has come so far."""
        return [headers.get(b"x-request-id") for _, headers, _ in self.answers]
