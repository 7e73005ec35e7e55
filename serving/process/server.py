"""uvicorn around the application, ended so that no client who has connected is lost."""

import asyncio
import contextlib
import math
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from snapensemble.contracts.process import raise_if_stopped, signals_to_obey
from snapensemble.serving.http.protocol import GuardedProtocol
from snapensemble.serving.http.service import Service
from snapensemble.serving.http.timekeeper import Timekeeper
from snapensemble.serving.inference.admission import MemoryBudget
from snapensemble.serving.process.descriptors import room_for_connections
from snapensemble.serving.process.sockets import at_the_door, is_shut, shut
from snapensemble.serving.shutdown import Shutdown
from snapensemble.serving.telemetry.tracing import Traces

if TYPE_CHECKING:  # its packages come with the extra `grpc`
    from snapensemble.serving.grpc.server import GrpcServer

LAST_S = 1.0  # for clients that have connected and are slow to send a request
HANDSHAKES_S = 0.25  # for handshakes that had begun when the port was shut
TICK_S = 0.02
TICKS_PER_SHOW = 10  # calls of `on_tick` after which gauges are brought up to date


class Server(uvicorn.Server):
    """A server that runs until its shutdown is over, then answers everyone who has connected.

    Args:
        config: that of uvicorn.
        shutdown: tells when to stop.
        service: what is served.
        shares_port: whether other processes have the port, too, so that this one does not shut it.
        grpc: the server on the port for gRPC, if there is one.
        jobs: what runs on the event loop beside it, until it is cancelled.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        shutdown: Shutdown,
        service: Service,
        *,
        shares_port: bool = False,
        grpc: "GrpcServer | None" = None,
        jobs: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
    ) -> None:
        super().__init__(config)
        self.service = service
        self.when_started: Callable[[], None] = lambda: None
        self._grpc = grpc
        self._shutdown = shutdown
        self._shares_port = shares_port
        self._jobs = jobs
        self._running: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen for gRPC too, begin what runs beside, and say then that the server has started."""
        if self._grpc is not None:
            await self._grpc.start()
        await super().startup(sockets)
        self._running = [asyncio.get_running_loop().create_task(job()) for job in self._jobs]
        self.when_started()

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop listening; asked ten times a second."""
        if counter % TICKS_PER_SHOW == 0:  # beside, since nothing that fails in it may end this
            asyncio.get_running_loop().call_soon(self.service.show_load)
        return await super().on_tick(counter) or self._shutdown.over

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept all who have connected, answer them, and close, in the time that is left."""
        for job in self._running:
            job.cancel()
        async with asyncio.TaskGroup() as tasks:
            if self._grpc is not None:
                left_s = min(self._shutdown.left_s, self.service.settings.shutdown_timeout_s)
                tasks.create_task(self._grpc.stop(left_s))
            await self._shut(sockets or [])

    async def _shut(self, sockets: list[socket.socket]) -> None:
        await self._accept_the_last(sockets)
        if self._shutdown.stopping:
            self.config.timeout_graceful_shutdown = self._shutdown.left_s  # type: ignore[assignment]
        await super().shutdown(sockets)

    async def _accept_the_last(self, sockets: list[socket.socket]) -> None:
        """Go on until all connections are accepted and each of them has sent a request.

        The event loop accepts meanwhile, and each answer closes its connection. A process that
        shares the port goes when the port has been shut; if it has not, another process accepts
        those who wait.
        """
        if not self._shares_port:
            for each in sockets:
                shut(each)
        began = time.monotonic()
        shut_at = math.inf
        while time.monotonic() < began + min(LAST_S, self._shutdown.left_s / 2):
            if shut_at == math.inf and all(map(is_shut, sockets)):
                shut_at = time.monotonic()
            if (
                time.monotonic() > shut_at + HANDSHAKES_S
                and not any(map(at_the_door, sockets))
                and not self._has_newcomers()
            ):
                return
            await asyncio.sleep(TICK_S)

    def _has_newcomers(self) -> bool:
        """Whether a connection has sent no request yet: to close it would lose a client."""
        connections = self.server_state.connections
        return any(getattr(connection, "cycle", None) is None for connection in connections)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the handlers as they are: `make_server` has set them, for longer than it runs."""
        yield


def make_server(
    app: FastAPI,
    memory: MemoryBudget,
    shutdown: Shutdown,
    traces: Traces | None = None,
    jobs: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
) -> Server:
    """Make a server that SIGTERM, SIGINT or SIGHUP ends in order from now on, also before it runs.

    The server drains, stops listening, answers what it has accepted, and its `run` returns.

    Args:
        app: made by `create_app`.
        memory: counts the bytes that its requests hold.
        shutdown: tells when to stop.
        traces: makes spans of the calls over gRPC; there are none without it.
        jobs: what runs on the event loop beside it, until it is cancelled.
    """
    service: Service = app.state.service
    settings = service.settings
    room = room_for_connections(settings)
    config = uvicorn_config(
        app,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
        http=partial(
            GuardedProtocol,
            room=room,
            max_connections=settings.max_connections,
            memory=memory,
            timekeeper=Timekeeper(),
            on_refusal=service.metrics.refused,
        ),
    )
    for signum in signals_to_obey():
        signal.signal(signum, shutdown.stop)
    raise_if_stopped()  # by a signal that came before
    grpc = None
    if settings.grpc_port is not None:
        from snapensemble.serving.grpc.server import GrpcServer

        grpc = GrpcServer(service, traces, room, memory)
    return Server(config, shutdown, service, shares_port=settings.workers > 1, grpc=grpc, jobs=jobs)


def uvicorn_config(app: ASGIApp, http: partial[GuardedProtocol], **more: Any) -> uvicorn.Config:
    """The configuration that all ports of this server share: guarded, quiet and nameless.

    Args:
        app: answers the requests.
        http: makes the protocol of a connection, which has the limits of its port.
        more: what else is uvicorn's.
    """
    return uvicorn.Config(
        app,
        http=http,  # type: ignore[arg-type] # it takes anything that makes a protocol
        ws="none",
        lifespan="off",  # nothing waits for it, and a start that fails would leave its traceback
        access_log=False,  # `snapensemble.serving.http.exchange` writes one
        log_config=None,
        log_level="error",
        server_header=False,
        proxy_headers=False,  # nothing here depends on who the client is
        **more,
    )
