"""A bundle behind Ray Serve: each replica runs the server's own application around an engine.

    PYTHONPATH=docker/ray serve run docker/ray/serve.yaml

Ray's proxy speaks HTTP in place of this server, so what `GuardedProtocol` and the orderly end of
`snapensemble serve` promise does not hold here: docs/scaling.md says what does.
"""

import asyncio
import contextlib
import math
import os
from pathlib import Path
from typing import Any

import ray
from pydantic import BaseModel, ConfigDict, Field, field_validator
from ray import serve
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from snapensemble.serving.cli import build_settings, looking
from snapensemble.serving.platforms import bundle_place
from snapensemble.serving.process.repository import assembled
from snapensemble.serving.process.startup import prepare_process
from snapensemble.serving.settings import Settings
from snapensemble.serving.telemetry.tracing import exported_traces

REQUEST_ID = b"x-request-id"
MAX_QUEUE = Settings.model_fields["max_queue"].default
# Settings of what Ray does in place of this server, and where Ray's configuration has them.
OF_RAY = {
    "host": "http_options.host",
    "port": "http_options.port",
    "uds": "http_options",
    "uds_mode": "http_options",
    "keep_alive_s": "http_options.keep_alive_timeout_s",
    "grpc_port": "grpc_options, for services of your own",
    "metrics_port": "/metrics, which one replica answers",
    "model_control": "watch: a request to load or unload would reach one replica of several",
    "workers": "num_replicas",
    "max_connections": "max_queued_requests",
    "drain_seconds": "graceful_shutdown_timeout_s",
    "shutdown_timeout_s": "graceful_shutdown_timeout_s",
}


class Arguments(BaseModel):
    """What `args` of the application may say in Ray's configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: Path | None = Field(
        None, description="a bundle or a directory of models, on every node; /bundle if not set"
    )
    settings: dict[str, Any] = Field(
        {}, description="settings of the server by name; variables SNAPENSEMBLE_* of a node count"
    )

    @field_validator("settings")
    @classmethod
    def _ray_has_not_its_own(cls, settings: dict[str, Any]) -> dict[str, Any]:
        for name in settings:
            if name not in Settings.model_fields:
                raise ValueError(f"{name} is no setting; docs/settings.md lists all")
            if name in OF_RAY:
                raise ValueError(
                    f"{name} has no effect behind Ray Serve; instead there is {OF_RAY[name]}"
                )
        return settings


# Old replicas go when new ones are healthy, and stay if those cannot serve. All that a replica may
# have waiting reaches it, so that its own admission predicts the wait and answers 503 with
# Retry-After; what Ray keeps back beyond that is bounded, too.
@serve.deployment(
    max_ongoing_requests=MAX_QUEUE,
    max_queued_requests=MAX_QUEUE,
    max_surge_percent=50,
    max_constructor_retry_count=3,
    health_check_period_s=2,
    health_check_timeout_s=10,
    graceful_shutdown_timeout_s=40,
)
@serve.ingress()
class Server:
    """One replica: the models, and the application that answers for them.

    Args:
        bundle: a bundle or a directory of models.
        settings: settings of the server by name.
    """

    def __init__(self, bundle: Path | None, settings: dict[str, Any]) -> None:
        given = {"threads": processors(), **settings, "model_control": False}
        self.settings = build_settings(given)
        prepare_process(self.settings)
        look = looking(bundle or bundle_place(os.environ), self.settings)
        with contextlib.ExitStack() as stack:
            traces = stack.enter_context(exported_traces())
            self.application, self.service, _, refreshing = stack.enter_context(
                assembled(look(), self.settings, look, traces=traces)
            )
            task = asyncio.get_running_loop().create_task(refreshing.run())
            stack.callback(task.cancel)
            self.running = stack.pop_all()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The application that Ray hands requests to."""
        return OneRequestId(self.application)

    def check_health(self) -> None:
        """Raise if a member keeps failing: Ray then replaces the replica, as it knows no other."""
        self.service.check_ready()

    def __del__(self) -> None:
        """End the engines; Ray calls it when the last request has been answered."""
        running = getattr(self, "running", None)  # not there if the constructor has failed
        if running is not None:
            running.close()


class OneRequestId:
    """Leaves out the X-Request-ID of an answer where Ray's proxy puts the same one into it.

    Args:
        app: answers the requests.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand one request on."""
        theirs = [value for name, value in scope.get("headers", ()) if name == REQUEST_ID]

        async def send_without(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [
                    (name, value)
                    for name, value in message["headers"]
                    if name.lower() != REQUEST_ID or value not in theirs
                ]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_without)


def processors() -> int:
    """The lanes of a replica: the processors that Ray has given it, rounded up."""
    given: dict[str, float] = ray.get_runtime_context().get_assigned_resources()
    return max(1, math.ceil(given.get("CPU", 1)))


def build(arguments: Arguments) -> serve.Application:
    """The application, as Ray's configuration asks for it."""
    return Server.bind(arguments.bundle, arguments.settings)  # type: ignore[attr-defined] # a deployment
