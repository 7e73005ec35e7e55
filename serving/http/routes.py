"""The handlers of all paths but that of predictions, which is `serving.http.prediction`."""

import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from snapensemble.serving.http.service import Service
from snapensemble.serving.page import PAGE, PAGE_HEADERS
from snapensemble.serving.telemetry.metrics import CONTENT_TYPE

router = APIRouter()
metrics_router = APIRouter()  # the main port has it, or a port of its own
PREDICT = "/predict"
READ = ["GET", "HEAD"]  # RFC 9110 wants both or neither


@router.api_route("/health/live", methods=READ)
async def live() -> dict[str, bool]:
    """200 as long as the process can answer."""
    return {"live": True}


@router.api_route("/health/ready", methods=READ)
async def ready(request: Request) -> dict[str, bool]:
    """200 from the port's opening, when members are loaded and warm, until the server stops."""
    service: Service = request.app.state.service
    service.check_ready()
    return {"ready": True}


@metrics_router.api_route("/metrics", methods=READ)
async def metrics(request: Request) -> Response:
    """Prometheus text."""
    service: Service = request.app.state.service
    service.show_load()
    service.show_drift()
    return Response(service.metrics.page(), media_type=CONTENT_TYPE)


@router.api_route("/model", methods=READ)
async def model(request: Request) -> dict[str, Any]:
    """What is served, how it was chosen, and how good it was on the validation split."""
    service: Service = request.app.state.service
    content = service.engine.bundle.model_dump(mode="json")
    del content["data"]["spec"]  # a path of the machine that trained
    content["name"] = service.name
    content["uptime_seconds"] = round(time.monotonic() - service.started, 1)
    content["lanes"] = service.engine.lanes.threads
    content["providers"] = service.engine.providers
    content["workers"] = service.settings.workers
    content["mode"] = service.settings.mode
    point = service.engine.point
    content["cascade_point"] = None if point is None else point.model_dump(mode="json")
    return content


@router.api_route("/", methods=READ)
async def page() -> HTMLResponse:
    """A page for people."""
    return HTMLResponse(PAGE, headers=PAGE_HEADERS)
