"""uvicorn around the application."""

import socket

import uvicorn

from serving.app import create_app
from serving.engine import Engine
from serving.metrics import Metrics
from serving.settings import Settings


def serve(settings: Settings, engine: Engine, metrics: Metrics, listener: socket.socket) -> None:
    """Answer requests on `listener` until SIGTERM or SIGINT, then finish the accepted ones."""
    config = uvicorn.Config(
        create_app(settings, engine, metrics),
        access_log=settings.access_log,
        log_config=None,
        log_level="info" if settings.access_log else "warning",
        server_header=False,
        # Above the idle time of the usual proxies, so that they close first.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
    )
    uvicorn.Server(config).run(sockets=[listener])
