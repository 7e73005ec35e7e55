"""A server on a thread of the test's process, which gets its requests as bytes."""

import contextlib
import http.client
import io
import socket
import sys
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import httpx
import uvicorn
from fastapi import FastAPI

from snapensemble.serving.http.protocol import GuardedProtocol
from snapensemble.serving.process.server import uvicorn_config
from tests.waiting import wait_for

GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"
HANGS_AFTER_S = 20
PAUSE_S = 0.1  # without a byte of answer; then the client stops sending


class Port:
    """A server on a thread of this process, so that the test can look inside."""

    def __init__(self, server: uvicorn.Server, app: FastAPI, address: tuple[str, int]) -> None:
        self.server = server
        self.app = app
        self.address = address

    def exchange(self, data: bytes) -> bytes:
        """All that comes back for some bytes until the server hangs up."""
        received = b""
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection(self.address, timeout=HANGS_AFTER_S) as connection,
        ):
            connection.sendall(data)
            connection.settimeout(PAUSE_S)
            try:
                while piece := connection.recv(65536):
                    received += piece
            except TimeoutError:  # it waits for more
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(HANGS_AFTER_S)
                while piece := connection.recv(65536):
                    received += piece
        return received

    def wait_until_nothing_is_left(self) -> None:
        state = self.server.server_state
        wait_for(lambda: not (state.connections or state.tasks or self.is_holding()))

    def is_holding(self) -> bool:
        """Whether a request that is over, or a connection, has left something behind."""
        admission = self.app.state.service.model().admission
        queued = self.app.state.engine.scheduler.queued
        return any((admission.memory.held, admission.images, admission.requests, queued))


@contextlib.contextmanager
def open_port(app: FastAPI, **limits: Any) -> Iterator[Port]:
    """Serve until the end of the block; then nothing may be left of any request.

    Args:
        app: the application.
        limits: arguments of `GuardedProtocol`, such as `max_connections`.
    """
    memory, on_refusal = app.state.service.model().admission.memory, app.state.metrics.refused
    limits = {"room": sys.maxsize, "memory": memory, "on_refusal": on_refusal, **limits}
    http = partial(GuardedProtocol, **limits)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn_config(app, http, timeout_graceful_shutdown=5))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            port = Port(server, app, listener.getsockname())
            yield port
            port.wait_until_nothing_is_left()
        finally:
            server.should_exit = True
            thread.join()


class Replayed(io.BytesIO):
    """Bytes that http.client takes for a socket."""

    def makefile(self, *_: Any) -> io.BytesIO:
        return self


def first_answer(data: bytes, method: str) -> httpx.Response:
    reply = http.client.HTTPResponse(cast("socket.socket", Replayed(data)), method=method)
    reply.begin()
    return httpx.Response(reply.status, headers=reply.getheaders(), content=reply.read())
