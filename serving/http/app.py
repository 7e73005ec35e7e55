"""create_app(): engine and settings -> an ASGI application."""

import os
from collections.abc import Callable, Iterable, Mapping

from fastapi import FastAPI

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.serving.http.adapters import (
    hugging_face,
    predict,
    repository,
    sagemaker,
    torchserve,
    v1,
    vertex,
)
from snapensemble.serving.http.adapters.adapter import Adapter, Routes
from snapensemble.serving.http.adapters.open_inference import rest as open_inference
from snapensemble.serving.http.auth import read_tokens
from snapensemble.serving.http.exchange import Exchanges
from snapensemble.serving.http.middleware import Auth, Cors, Prefix
from snapensemble.serving.http.openapi import Document
from snapensemble.serving.http.pages import ASSETS, docs_assets
from snapensemble.serving.http.prediction import Predictions
from snapensemble.serving.http.problems import add_problem_handlers
from snapensemble.serving.http.routes import router_of
from snapensemble.serving.http.service import Model, Service
from snapensemble.serving.http.shadow import Shadow
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.settings import Settings
from snapensemble.serving.shutdown import Shutdown
from snapensemble.serving.telemetry.metrics import Metrics
from snapensemble.serving.telemetry.tracing import Traces

# The contracts that the server speaks. Each makes its adapter from the variables of the
# environment, or none where they do not ask for it. Of two that have a route in common the first
# has it, so those come first whose routes the environment names.
ADAPTERS: tuple[Callable[[Mapping[str, str]], Adapter | None], ...] = (
    vertex.adapter,
    predict.adapter,
    open_inference.adapter,
    repository.adapter,
    sagemaker.adapter,
    v1.adapter,
    hugging_face.adapter,
    torchserve.adapter,
)


def create_app(
    settings: Settings,
    engine: Engine | None,
    metrics: Metrics | None = None,
    shutdown: Shutdown | None = None,
    traces: Traces | None = None,
) -> FastAPI:
    """Assemble the server around a running engine, whose owner starts and stops it.

    Args:
        settings: those of the server.
        engine: the only one; if None, models come later, by `app.state.service`.
        metrics: counts what happens.
        shutdown: tells when the server stops.
        traces: makes spans of the requests; there are none without it.

    Raises:
        InvalidConfig: the tokens cannot be read or are not right, or a proxy's path is that of a
            route.
        InvalidParameter: the bundle cannot answer in the mode that the settings ask for.
    """
    tokens = read_tokens(settings)
    metrics, shutdown = metrics or Metrics(), shutdown or Shutdown()
    app = FastAPI(
        openapi_url=None,  # `Document` is one that says more
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # `Exchanges` has its own
    )
    service = Service(settings, metrics, shutdown)
    if engine is not None:
        name = settings.name or engine.bundle.name
        service.add(Model(engine, name, engine.bundle.version))
    if settings.shadow is not None:
        service.shadow = Shadow(service)
    app.state.service = service
    app.state.engine = engine
    app.state.metrics = metrics
    adapters = adapters_of(os.environ)
    routes = Routes(adapters)
    router, paths, probes = router_of(settings, adapters, guarded=tokens is not None)
    app.state.document = Document(router.routes)
    app.include_router(router)
    app.mount(f"/{ASSETS}", docs_assets())
    add_problem_handlers(app)
    # Each layer is around those before it. What FastAPI does for a request in general costs more
    # than a small ensemble, so predictions are answered before it.
    app.add_middleware(Predictions, service=service, routes=routes)
    if tokens is not None:
        app.add_middleware(Auth, tokens=tokens, probes=probes)
    if settings.allowed_origins:  # around the tokens: a preflight request has none
        app.add_middleware(Cors, origins=settings.allowed_origins)
    app.add_middleware(
        Exchanges,
        routes=paths,
        metrics=metrics,
        shutdown=shutdown,
        words=routes.words,
        traces=traces,
        access_log=settings.access_log,
    )
    if settings.root_path:
        check_prefix(settings.root_path, paths)
        app.add_middleware(Prefix, prefix=settings.root_path)
    return app


def adapters_of(environment: Mapping[str, str]) -> list[Adapter]:
    """All contracts that a server speaks in an environment."""
    made = [make(environment) for make in ADAPTERS]
    return [adapter for adapter in made if adapter is not None]


def check_prefix(prefix: str, routes: Iterable[str]) -> None:
    """Refuse a path of a proxy under which a request could be for one route and for another.

    Raises:
        InvalidConfig: it begins like a route.
    """
    first = prefix.split("/")[1]
    if first in {route.split("/")[1] for route in routes}:
        raise InvalidConfig(
            f"--root-path {prefix}: this server has a route /{first}; choose a path that begins "
            "in another way"
        )
