"""create_app(): engine and settings -> an ASGI application."""

import logging
import time

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.at_once import AtOnce
from serving.cors import Cors
from serving.documentation import documentation_router
from serving.engine import Engine
from serving.guard import Guard
from serving.headers import AnswerHeaders
from serving.life import CloseInTime, Life
from serving.logs import log_access
from serving.metrics import Metrics
from serving.openapi import describe
from serving.problems import add_problem_handlers, internal_problem
from serving.routes import NO_ANSWER, PREDICT, metrics_router, router
from serving.service import Service
from serving.settings import Settings
from serving.shortcut import answer_prediction, is_prediction
from serving.tokens import read_tokens
from serving.traces import Traced, Traces

ROUTES = (
    PREDICT,
    "/health/live",
    "/health/ready",
    "/metrics",
    "/model",
    "/",
    "/docs",
    "/openapi.json",
)
log = logging.getLogger("snapensemble")


def create_app(
    settings: Settings,
    engine: Engine,
    metrics: Metrics | None = None,
    life: Life | None = None,
    traces: Traces | None = None,
) -> "Application":
    """Assemble the server around a running engine, whose owner starts and stops it.

    Raises:
        InvalidConfig: the tokens cannot be read or are not right.
        InvalidParameter: the bundle cannot answer in the mode that the settings ask for.
    """
    tokens = read_tokens(settings)
    metrics, life = metrics or Metrics(), life or Life()
    service = Service(settings, engine, metrics, life, traces)

    app = Application(
        # Its own document knows neither what goes wrong nor the bodies; ours is serving.openapi.
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    if traces is None and not settings.access_log:
        app.at_once = AtOnce(service, tokens)
    app.state.engine = engine
    app.state.metrics = metrics
    app.state.document = describe(settings, guarded=tokens is not None)
    app.include_router(router)
    app.include_router(documentation_router(app.state.document))
    if settings.metrics_port is None:
        app.include_router(metrics_router)
    add_problem_handlers(app)
    app.layers = app.inmost
    if tokens is not None:
        app.layers = Guard(app.layers, tokens)
    if settings.allowed_origins:  # around the guard: a preflight request has no token
        app.layers = Cors(app.layers, settings.allowed_origins)
    app.layers = RequestMetrics(app.layers, metrics, access_log=settings.access_log)
    if traces is not None:
        app.layers = Traced(app.layers, traces, ROUTES)
    app.layers = CloseInTime(AnswerHeaders(app.layers), life)
    return app


class Application(FastAPI):
    """FastAPI behind layers of our own, and past it the way of predictions."""

    layers: ASGIApp
    at_once: AtOnce | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        scope["app"] = self
        await self.layers(scope, receive, send)

    async def inmost(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What the layers are around."""
        if is_prediction(scope):
            await answer_prediction(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class RequestMetrics:
    """Counts, times and perhaps logs every request, and turns a defect into a problem document.

    Plain ASGI: the wrapper classes of the framework hide from a handler that its client left.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, *, access_log: bool = False) -> None:
        self._app = app
        self._metrics = metrics
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status = 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        # Unknown paths share one label, or anyone could make as many as they like.
        route = scope["path"] if scope["path"] in ROUTES else "other"
        try:
            await self._app(scope, receive, counted)
        except Exception:  # a defect: logged here, and the client learns no more than that
            log.exception("unexpected error in %s %s", scope["method"], route)
            if status == 0:
                await internal_problem(self._metrics)(scope, receive, counted)
        finally:
            seconds = time.monotonic() - started
            self._metrics.request(route, status or NO_ANSWER, seconds)
            if self._access_log:
                log_access(
                    method=scope["method"],
                    route=route,
                    status=status or NO_ANSWER,
                    milliseconds=round(seconds * 1000, 3),
                    **scope.get("state", {}).get("noted", {}),
                )
