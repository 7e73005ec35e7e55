"""create_app(): engine and settings -> an ASGI application."""

from fastapi import FastAPI
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.documentation import documentation_router
from serving.engine import Engine
from serving.http.exchange import Exchanges
from serving.http.middleware import Auth, Cors
from serving.http.prediction import predict
from serving.life import Life
from serving.metrics import Metrics
from serving.openapi import describe
from serving.problems import add_problem_handlers, method_not_allowed
from serving.routes import PREDICT, metrics_router, router
from serving.service import Service
from serving.settings import Settings
from serving.tokens import read_tokens
from serving.traces import Traces

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
        # Its own document knows neither what goes wrong nor the bodies; ours is serving.openapi.
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
