"""uvicorn around the application."""

import signal

import uvicorn

from serving.app import create_app
from serving.engine import Engine
from serving.metrics import Metrics
from serving.protocol import GuardedProtocol
from serving.settings import Settings


def make_server(settings: Settings, engine: Engine, metrics: Metrics) -> uvicorn.Server:
    """A server that SIGTERM or SIGINT ends in order from now on, also before it runs.

    It stops listening, answers what it has accepted, and its `run` returns.
    """
    config = uvicorn.Config(
        create_app(settings, engine, metrics),
        http=GuardedProtocol,
        ws="none",
        access_log=False,  # serving.app writes it
        log_config=None,
        log_level="error",
        server_header=False,
        # Above the idle time of the usual proxies, so that they close first.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
    )
    server = uvicorn.Server(config)

    def stop(*_: object) -> None:
        server.should_exit = True

    # uvicorn has handlers of its own while it runs, and raises the signal once more at its end.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    return server
