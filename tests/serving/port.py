"""A server on a thread of the test's process, asked in bytes."""

import contextlib
import http.client
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import httpx
import uvicorn

from serving.app import Application
from serving.protocol import GuardedProtocol
from serving.server import uvicorn_config

GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"
HANGS_AFTER_S = 20
PAUSE_S = 0.1  # without a byte of answer; then the client stops sending


class Port:
    """A server on a thread of this process, whose inside the test can look at."""

    def __init__(self, server: uvicorn.Server, app: Application, address: tuple[str, int]) -> None:
        self.server = server
        self.app = app
        self.address = address

    def exchange(self, data: bytes) -> bytes:
        """All that comes back for some bytes until the server hangs up."""
        said = b""
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection(self.address, timeout=HANGS_AFTER_S) as connection,
        ):
            connection.sendall(data)
            connection.settimeout(PAUSE_S)
            try:
                while piece := connection.recv(65536):
                    said += piece
            except TimeoutError:  # it waits for more
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(HANGS_AFTER_S)
                while piece := connection.recv(65536):
                    said += piece
        return said

    def wait_until_nothing_is_left(self) -> None:
        intake, state = self.app.state.service.intake, self.server.server_state
        wait_for(lambda: not (intake.bytes_in_flight or state.connections or state.tasks))


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + HANGS_AFTER_S
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.001)


@contextlib.contextmanager
def open_port(app: Application, *, at_once: bool = True) -> Iterator[Port]:
    """Serve until the end of the block.

    Args:
        app: the application.
        at_once: whether predictions that arrive whole may go past it.
    """
    http = partial(GuardedProtocol, at_once=app.at_once if at_once else None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn_config(app, timeout_graceful_shutdown=5, http=http))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Port(server, app, listener.getsockname())
        finally:
            server.should_exit = True
            thread.join()


class Replayed(io.BytesIO):
    """Bytes that http.client takes for a connection."""

    def makefile(self, *_: Any) -> io.BytesIO:
        return self


def first_answer(data: bytes, method: str) -> httpx.Response:
    reply = http.client.HTTPResponse(cast("socket.socket", Replayed(data)), method=method)
    reply.begin()
    return httpx.Response(reply.status, headers=reply.getheaders(), content=reply.read())
