"""The routes, with what the OpenAPI document says of each. FastAPI answers all but predictions."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Query, Request, Security
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.routing import BaseRoute

from snapensemble.contracts.abstention import RISKS
from snapensemble.serving import errors
from snapensemble.serving.http.adapters.adapter import JSON, Adapter
from snapensemble.serving.http.adapters.documented import (
    BINARY,
    PREDICT_ERRORS,
    path_parameters,
)
from snapensemble.serving.http.adapters.predict import PREDICT
from snapensemble.serving.http.media.encodings import CODINGS
from snapensemble.serving.http.openapi import READ, problem_responses
from snapensemble.serving.http.pages import first_page_router, pages_router
from snapensemble.serving.http.schemas import (
    EXAMPLE,
    Live,
    ModelResponse,
    PredictOptions,
    PredictResponse,
    Ready,
)
from snapensemble.serving.http.service import Model, Service
from snapensemble.serving.settings import Settings
from snapensemble.serving.telemetry.metrics import CONTENT_TYPE

probes_router = APIRouter(tags=["operation"], responses=problem_responses())
metrics_router = APIRouter(tags=["operation"], responses=problem_responses())
model_router = APIRouter(tags=["model"], responses=problem_responses())


class Routed(NamedTuple):
    """The router with all routes of a server."""

    router: APIRouter
    paths: frozenset[str]  # their templates
    probes: frozenset[str]  # those of the contracts' own probes, which need no token


def router_of(settings: Settings, adapters: Sequence[Adapter], *, guarded: bool) -> Routed:
    """All routes of a server; the routers that they come from stay as they are.

    Args:
        settings: limits for the document, and whether /metrics is on this port.
        adapters: the contracts, with routes of their own.
        guarded: whether the document says that requests need a token, which a layer around the
            application checks.
    """
    # Whether a token is needed, and how errors are put beside problem documents.
    parts: list[tuple[APIRouter, bool, Mapping[str, Any] | None]] = [
        (model_router, True, None),
        (probes_router, False, None),
        *([(metrics_router, True, None)] if settings.metrics_port is None else []),
        (first_page_router, False, None),
        (pages_router, True, None),
    ]
    for adapter in adapters:
        if adapter.router is not None:
            parts.append((adapter.router, True, adapter.error_content))
        if adapter.probes is not None:
            parts.append((adapter.probes, False, None))
    parts.append((_predict_router(settings), True, None))
    router = APIRouter(generate_unique_id_function=lambda route: route.name)
    known: set[tuple[str, str]] = set()
    probes: set[str] = set()
    for part, is_for_tokens, worded in parts:
        # A route that the environment names may be another one's as well; the first has it.
        own = [route for route in part.routes if not known & asked_by(route)]
        asked = set().union(*map(asked_by, own))
        known |= asked
        if any(part is adapter.probes for adapter in adapters):
            probes |= {path for path, _ in asked}
        needs: dict[str, Any] = {}
        if guarded and is_for_tokens:
            needs["responses"] = problem_responses(errors.Unauthorized, worded=worded)
            needs["dependencies"] = [Security(HTTPBearer(scheme_name="bearer", auto_error=False))]
        router.include_router(APIRouter(routes=own), **needs)
    return Routed(router, frozenset(path for path, _ in known), frozenset(probes))


def asked_by(route: BaseRoute) -> set[tuple[str, str]]:
    """The path of a route with each of its methods."""
    assert isinstance(route, APIRoute)
    return {(route.path, method) for method in route.methods or ()}


def _predict_router(settings: Settings) -> APIRouter:
    most = settings.max_images_per_request
    pictures = {"type": "array", "items": BINARY, "minItems": 1, "maxItems": most}
    form = {"type": "object", "properties": {"image": pictures}, "required": ["image"]}
    body = {
        "required": True,
        "description": (
            "One encoded picture (JPEG, PNG, WebP, AVIF, BMP, GIF or TIFF) as the body, or up to "
            f"{most} as files of a form, under any names, or as base64 or data URIs in JSON; "
            f"{settings.max_body_bytes:,} bytes at most. Content-Encoding may be "
            f"{' or '.join(CODINGS)}."
        ),
        "content": {
            "image/*": {"schema": BINARY},
            "application/octet-stream": {"schema": BINARY},
            "multipart/form-data": {"schema": form},
            JSON: {"schema": {"$ref": "#/components/schemas/JsonImages"}},
        },
    }
    answer: dict[str, Any] = {"model": PredictResponse, "content": {JSON: {"example": EXAMPLE}}}
    router = APIRouter(tags=["model"])

    post = partial(
        router.post,
        responses={200: answer, **problem_responses(*PREDICT_ERRORS)},
        openapi_extra={"requestBody": body},
    )

    # None of them is called: the application answers POST before it asks FastAPI.
    @post(PREDICT)
    def predict(options: Annotated[PredictOptions, Query()]) -> None:
        """The averaged class probabilities of one or more images."""

    @post(f"{PREDICT}/{{model}}")
    def predict_by(model: str, options: Annotated[PredictOptions, Query()]) -> None:
        """The same of one model among several."""

    @post(f"{PREDICT}/{{model}}/{{version}}")
    def predict_by_version(
        model: str, version: str, options: Annotated[PredictOptions, Query()]
    ) -> None:
        """The same of one version of a model."""

    return router


@model_router.api_route(
    "/model",
    methods=READ,
    responses={200: {"model": ModelResponse}, **problem_responses(errors.UnknownModel)},
)
async def model(request: Request) -> JSONResponse:
    """What is served, how it was chosen, and how good it was on the validation split."""
    service: Service = request.app.state.service
    return JSONResponse(described(service, service.model()))


@model_router.api_route(
    "/model/{model}",
    methods=READ,
    responses={200: {"model": ModelResponse}, **problem_responses(errors.UnknownModel)},
    openapi_extra=path_parameters("/model/{model}"),
)
async def model_by(request: Request) -> JSONResponse:
    """The same of one model among several."""
    service: Service = request.app.state.service
    return JSONResponse(described(service, service.model(request.path_params["model"])))


def described(service: Service, model: Model) -> dict[str, Any]:
    """What `ModelResponse` says of a model."""
    engine, mode = model.engine, service.settings.mode
    content = engine.bundle.model_dump(mode="json")
    del content["data"]["spec"]  # a path of the machine that trained
    promises = engine.promises(mode)
    return content | {
        "name": model.name,
        "version": model.version,
        "uptime_seconds": round(time.monotonic() - service.started, 1),
        "memory_bytes": model.memory_bytes,
        "lanes": engine.scheduler.threads,
        "providers": engine.providers,
        "workers": service.settings.workers,
        "mode": mode,
        "explain": engine.maps is not None,
        "abstain": [risk for risk in RISKS if promises is not None and promises.at(risk)],
        "cascade_point": None if engine.point is None else engine.point.model_dump(mode="json"),
    }


@probes_router.api_route("/health/live", methods=READ)
async def live() -> Live:
    """200 as long as the process answers."""
    return Live(live=True)


@probes_router.api_route(
    "/health/ready",
    methods=READ,
    responses=problem_responses(errors.Stopping, errors.MemberFailing),
)
async def ready(request: Request) -> Ready:
    """200 when members are loaded and warm, until the server stops."""
    service: Service = request.app.state.service
    service.check_ready()
    return Ready(ready=True)


@metrics_router.api_route("/metrics", methods=READ, response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Counts for Prometheus."""
    service: Service = request.app.state.service
    service.show_load()
    return Response(service.metrics.page(), media_type=CONTENT_TYPE)
