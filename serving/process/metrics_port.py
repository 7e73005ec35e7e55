"""/metrics on a port of its own, for a network that clients do not see."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from functools import partial

import uvicorn
from fastapi import FastAPI

from snapensemble.serving.http.exchange import Exchanges
from snapensemble.serving.http.problems import add_problem_handlers
from snapensemble.serving.http.protocol import GuardedProtocol
from snapensemble.serving.http.routes import metrics_router
from snapensemble.serving.http.service import Service
from snapensemble.serving.process.descriptors import room_for_metrics
from snapensemble.serving.process.server import uvicorn_config
from snapensemble.serving.shutdown import Shutdown

LAST_S = 0.2  # for answers under way, and again for the thread


def create_metrics_app(service: Service) -> FastAPI:
    """An application that knows /metrics and nothing else, and asks for no token."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service = service
    app.state.metrics = service.metrics
    app.include_router(metrics_router)
    add_problem_handlers(app)
    app.add_middleware(
        Exchanges, routes=("/metrics",), metrics=service.metrics, shutdown=Shutdown()
    )
    return app


@contextlib.contextmanager
def serve_metrics(listener: socket.socket, service: Service) -> Iterator[None]:
    """Answer on a listening socket, on a thread with its own event loop, while the body runs."""
    http = partial(GuardedProtocol, room=room_for_metrics(service.settings))
    config = uvicorn_config(create_metrics_app(service), http, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="metrics", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(LAST_S)
        server.force_exit = True  # clients may be slow: a thread must not outlive the interpreter
        thread.join(LAST_S)
