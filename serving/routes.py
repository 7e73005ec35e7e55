"""The handlers. Each reads as what happens to a request."""

import asyncio
import math
import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from starlette.requests import ClientDisconnect

from contracts.errors import InvalidImage
from serving.connected import Connected
from serving.engine import Engine
from serving.errors import BadImageInRequest
from serving.metrics import CONTENT_TYPE, Metrics
from serving.page import PAGE, PAGE_HEADERS
from serving.query import options_of
from serving.service import Service
from serving.stages import Mode
from serving.waiting import Answer, Said

router = APIRouter()
metrics_router = APIRouter()  # the main port has it, or a port of its own
PREDICT = "/predict"
NO_ANSWER = 499  # it was never begun: the client has left, or the server had to stop
READ = ["GET", "HEAD"]  # RFC 9110 wants both or neither


@router.post(PREDICT)
async def predict(request: Request) -> Response:
    """The ensemble's averaged class probabilities for one or more images."""
    service: Service = request.app.state.service
    options = options_of(request.scope["query_string"])
    within_s = math.inf if options.deadline_ms is None else options.deadline_ms / 1000
    # Before the body is read: a refusal must cost little.
    service.engine.lanes.refuse_overload(1, within_s)
    asked = service.asked(options)
    deadline = asyncio.get_running_loop().time() + within_s
    try:
        with service.stage("receive"):
            pictures = await service.intake.read(request, deadline)
        request.state.noted = {"images": len(pictures)}  # for the access log
        with service.room_for(len(pictures)):
            async with Connected(request):
                said_N = await classify(service, pictures, asked.mode, deadline)
    except ClientDisconnect:
        service.metrics.departed.inc()
        return Response(status_code=NO_ANSWER)  # nobody is there to read it
    finally:
        service.intake.release(request)
    request.state.noted["members_used"] = sum(len(said.probs_dK) for said in said_N)
    return Response(service.answer(asked, said_N), media_type="application/json")


async def classify(
    service: Service, pictures: list[bytes], mode: Mode, deadline: float
) -> list[Said]:
    """Decode and run all pictures of a request: what members say of each.

    Args:
        service: runs them.
        pictures: encoded.
        mode: which members to ask.
        deadline: when to answer with what there is, by the event loop's clock; infinite: never.

    Raises:
        Overloaded: before anything is decoded.
        BadImageInRequest: a picture that cannot be read; the others are not answered.
        InferenceFailed: a member failed.
        DeadlineExceeded: at the deadline no member has answered for an image.
    """
    loop = asyncio.get_running_loop()
    is_over: asyncio.Future[None] = loop.create_future()
    left = len(pictures)

    def told(answer: Answer) -> None:
        nonlocal left
        left -= 1
        if left == 0 or (not answer.cancelled() and answer.exception() is not None):
            end()

    def end() -> None:
        if not is_over.done():
            is_over.set_result(None)

    answers = service.desk.submit(pictures, mode, told)
    timer = loop.call_at(deadline, end) if deadline < math.inf else None
    try:
        await is_over
        for index, answer in enumerate(answers):
            if answer.done():
                said_of(answer, index, len(answers))  # a failure is the answer to all of them
        return [said_of(answer, index, len(answers)) for index, answer in enumerate(answers)]
    finally:  # also if the client has left: its images are in no micro-batch that forms later
        if timer is not None:
            timer.cancel()
        for answer in answers:
            answer.cancel()
        if service.traces is not None:
            service.traces.answers(answers)


def said_of(answer: Answer, index: int, count: int) -> Said:
    """What members have said so far of the picture in this place of a request."""
    try:
        return answer.cut_short()
    except InvalidImage as error:
        raise BadImageInRequest(index, count, error) from error


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
    counted: Metrics = request.app.state.metrics
    engine: Engine = request.app.state.engine
    counted.queued.set(engine.lanes.queued)
    if (service := getattr(request.app.state, "service", None)) is not None:
        service.show_drift()
    return Response(counted.page(), media_type=CONTENT_TYPE)


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
