"""POST /predict: a request, from its head to its answer."""

import asyncio
import math
import time
from collections.abc import Sequence

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from snapensemble.contracts.errors import InvalidImage
from snapensemble.serving.errors import BadImageInRequest, ServingError
from snapensemble.serving.http.body import Body
from snapensemble.serving.http.problems import serving_problem
from snapensemble.serving.http.scope import note, refuse_crowd
from snapensemble.serving.http.service import Service
from snapensemble.serving.inference.admission import Holding
from snapensemble.serving.inference.request import Answer, Said
from snapensemble.serving.query import options_of
from snapensemble.serving.stages import Mode

# Most answers are there before a client could have left; to listen for that costs more than a
# small ensemble.
LISTEN_AFTER_S = 0.05


async def predict(service: Service, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the averaged class probabilities of one or more images."""
    try:
        body = await answer(service, scope, receive)
    except ServingError as error:
        await serving_problem(error, service.metrics)(scope, receive, send)
    except ClientDisconnect:  # nobody is there to be answered
        service.metrics.departed.inc()
    else:
        length = (b"content-length", b"%d" % len(body))
        headers = [length, (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def answer(service: Service, scope: Scope, receive: Receive) -> bytes:
    """The body of the answer.

    Raises:
        ServingError: the request gets none.
        ClientDisconnect: its sender has left.
    """
    refuse_crowd(scope)
    options = options_of(scope["query_string"])
    within_s = math.inf if options.deadline_ms is None else options.deadline_ms / 1000
    with service.admission.request(within_s) as held:
        asked = service.asked(options)
        deadline = within_s  # by the event loop's clock
        if deadline < math.inf:
            deadline += asyncio.get_running_loop().time()
        body = Body(scope, receive, held, service.settings)
        started = time.monotonic()
        try:
            pictures = await body.pictures(deadline)
        finally:
            service.received(started)
        note(scope, images=len(pictures))
        said_N = await classify(service, held, pictures, asked.mode, receive, deadline)
        note(scope, members_used=sum([len(said.probs_dK) for said in said_N]))
        return service.answer(asked, said_N)


async def classify(
    service: Service,
    held: Holding,
    pictures: list[bytes],
    mode: Mode,
    receive: Receive,
    deadline: float = math.inf,
) -> list[Said]:
    """Decode and run all pictures of a request: what members say of each.

    Args:
        service: runs them.
        held: by the request.
        pictures: encoded; the list is emptied.
        mode: which members to ask.
        receive: tells that the client has left; the body has been read.
        deadline: when to answer with what there is, by the event loop's clock; infinite: never.

    Raises:
        Overloaded: before anything is decoded.
        BadImageInRequest: a picture that cannot be read; the others are not answered.
        InferenceFailed: a member failed.
        DeadlineExceeded: at the deadline no member has answered for an image.
        ClientDisconnect: the client has left.
    """
    is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    count = left = len(pictures)

    def answered(answer: Answer) -> None:
        nonlocal left
        left -= 1
        if is_over.done():
            return
        if left == 0:
            is_over.set_result(None)
        elif not answer.cancelled() and answer.exception() is not None:
            is_over.set_exception(_failure_of(answers, answer))

    answers = held.submit(pictures, mode, service.bridge.submit, answered)
    try:
        await _over_or_left(is_over, receive, deadline)
        if left == 0:
            held.all_answered()
        return [_said_of(one, index, count) for index, one in enumerate(answers)]
    finally:
        if service.traces is not None:
            service.traces.answers(answers)


def _said_of(answer: Answer, index: int, count: int) -> Said:
    """What members have said so far of the picture in this place of a request."""
    try:
        return answer.cut_short()
    except InvalidImage as error:
        raise BadImageInRequest(index, count, error) from error


def _failure_of(answers: Sequence[Answer], failed: Answer) -> BaseException:
    """Why a request fails of which one picture has failed."""
    error = failed.exception()
    assert error is not None
    if isinstance(error, InvalidImage):
        return BadImageInRequest(answers.index(failed), len(answers), error)
    return error


async def _over_or_left(is_over: "asyncio.Future[None]", receive: Receive, deadline: float) -> None:
    """Wait until it is over, or until the deadline; ClientDisconnect if the client leaves."""
    loop = asyncio.get_running_loop()
    listeners: list[asyncio.Task[None]] = []

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not is_over.done():
            is_over.set_exception(ClientDisconnect())

    def begin_to_listen() -> None:
        listeners.append(loop.create_task(listen()))

    def end() -> None:
        if not is_over.done():
            is_over.set_result(None)

    timers = [loop.call_later(LISTEN_AFTER_S, begin_to_listen)]
    if deadline < math.inf:
        timers.append(loop.call_at(deadline, end))
    try:
        await is_over
    finally:
        for timer in timers:
            timer.cancel()
        for listener in listeners:
            listener.cancel()
