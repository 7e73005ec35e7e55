"""create_app(): engine and settings -> an ASGI application."""

from fastapi import FastAPI
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from snapensemble.serving.documentation import documentation_router
from snapensemble.serving.http.auth import read_tokens
from snapensemble.serving.http.exchange import Exchanges
from snapensemble.serving.http.middleware import Auth, Cors
from snapensemble.serving.http.openapi import describe
from snapensemble.serving.http.prediction import predict
from snapensemble.serving.http.problems import add_problem_handlers, method_not_allowed
from snapensemble.serving.http.routes import PREDICT, metrics_router, router
from snapensemble.serving.http.service import Service
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.settings import Settings
from snapensemble.serving.shutdown import Life
from snapensemble.serving.telemetry.metrics import Metrics
from snapensemble.serving.telemetry.tracing import Traces

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
    app = Application(
        # Its own document knows neither what goes wrong nor the bodies: `serving.http.openapi`.
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.service = Service(settings, engine, metrics, life, traces)
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
        app.layers = Auth(app.layers, tokens)
    if settings.allowed_origins:  # around the tokens: a preflight request has none
        app.layers = Cors(app.layers, settings.allowed_origins)
    app.layers = Exchanges(
        app.layers, ROUTES, metrics, life, traces, access_log=settings.access_log
    )
    return app


class Application(FastAPI):
    """FastAPI behind layers of our own, and beside it what answers predictions.

    What FastAPI does for a request in general costs more than a small ensemble.
    """

    layers: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        scope["app"] = self
        await self.layers(scope, receive, send)

    async def inmost(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What the layers are around."""
        if scope["type"] != "http" or scope["path"] != PREDICT:
            await super().__call__(scope, receive, send)
        elif scope["method"] == "POST":
            await predict(self.state.service, scope, receive, send)
        else:
            await method_not_allowed(Request(scope), "POST")(scope, receive, send)
