"""uvicorn around the application."""

import contextlib
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from contracts.stopping import SIGNALS
from serving.app import create_app
from serving.engine import Engine
from serving.life import Life
from serving.metrics import Metrics
from serving.protocol import GuardedProtocol
from serving.settings import Settings
from serving.traces import Traces


class Server(uvicorn.Server):
    """Runs until its life is over, then answers what it has accepted."""

    def __init__(self, config: uvicorn.Config, life: Life) -> None:
        super().__init__(config)
        self._life = life

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop listening; asked ten times a second."""
        return await super().on_tick(counter) or self._life.over

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the handlers as they are: `make_server` has set them, for longer than it runs."""
        yield


def make_server(
    settings: Settings,
    engine: Engine,
    metrics: Metrics,
    life: Life,
    traces: Traces | None = None,
) -> uvicorn.Server:
    """A server that SIGTERM or SIGINT ends in order from now on, also before it runs.

    It drains, stops listening, answers what it has accepted, and its `run` returns.
    """
    app = create_app(settings, engine, metrics, life, traces)
    config = uvicorn_config(
        app,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
        http=partial(
            GuardedProtocol, max_connections=settings.max_connections, at_once=app.at_once
        ),
    )
    for signum in SIGNALS:
        signal.signal(signum, life.stop)
    return Server(config, life)


def uvicorn_config(app: ASGIApp, **more: Any) -> uvicorn.Config:
    """What every port of this server has in common: guarded, quiet and nameless."""
    return uvicorn.Config(
        app,
        ws="none",
        access_log=False,  # serving.app writes it
        log_config=None,
        log_level="error",
        server_header=False,
        proxy_headers=False,  # nothing here asks who the client is
        **{"http": GuardedProtocol, **more},
    )
