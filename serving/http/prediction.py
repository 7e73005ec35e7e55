"""The way of a request for predictions, of any contract, from its head to its answer."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from snapensemble.contracts.cascade import Mode
from snapensemble.serving.errors import InvalidParameter, ServingError
from snapensemble.serving.http.adapters.adapter import (
    Head,
    InferenceRequest,
    InferenceResponse,
    Reply,
    Route,
    Routes,
)
from snapensemble.serving.http.body import Body
from snapensemble.serving.http.bridge import classified
from snapensemble.serving.http.exchange import STATE, RequestState
from snapensemble.serving.http.problems import serving_problem
from snapensemble.serving.http.responses import promised, with_summary
from snapensemble.serving.http.schemas import PredictOptions, checked_options
from snapensemble.serving.http.service import Model, Service
from snapensemble.serving.inference.admission import PendingRequest
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.inference.explain import Asked
from snapensemble.serving.inference.request import PendingImage

METHODS = ("POST", "PUT")  # by which anything is asked
MAX_QUERY_BYTES = 2048


class Predictions:
    """Answers all that asks for predictions, and lets other requests go on to the application.

    Args:
        app: the application.
        service: what the answers come from.
        routes: finds the contract of a path.
    """

    def __init__(self, app: ASGIApp, service: Service, routes: Routes) -> None:
        self._app = app
        self._service = service
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["method"] in METHODS:
            route = self._routes.find(scope["path"])
            if route is not None and scope["method"] in route.adapter.methods:
                await self._predict(route, scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _predict(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        state: RequestState = scope["state"][STATE]
        state.route = route.template
        try:
            call = call_of(self._service, route, scope, receive)
            reply = await answer(self._service, call, state)
        except ServingError as error:
            await serving_problem(error, self._service.metrics)(scope, receive, send)
        except ClientDisconnect:  # nobody is there to be answered
            self._service.metrics.departed.inc()
        else:
            headers = [
                (b"content-length", b"%d" % len(reply.content)),
                (b"content-type", reply.media_type.encode()),
                *reply.headers,
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": reply.content})


@dataclass(frozen=True, slots=True)
class Call:
    """A request for predictions, as its transport hands it over.

    Args:
        template: that of its path.
        params: what is asked, by `model` and `version`.
        headers: names in lower case.
        options: those that are known before its body.
        read: reads the body, given what holds its bytes, the head and the deadline.
        left: waits until its sender has left; None where a transport cancels the call then.
    """

    template: str
    params: Mapping[str, str]
    headers: Mapping[bytes, bytes]
    options: PredictOptions
    read: Callable[[PendingRequest, Head, float], Awaitable[InferenceRequest]]
    left: Callable[[], Awaitable[None]] | None = None


def call_of(service: Service, route: Route, scope: Scope, receive: Receive) -> Call:
    """The call of an HTTP request; raises InvalidParameter if its query is not right."""

    async def read(request: PendingRequest, head: Head, deadline: float) -> InferenceRequest:
        assert route.adapter.read is not None
        body = Body(scope, receive, request, service.settings)
        return await route.adapter.read(body, head, deadline)

    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    options = options_of(scope["query_string"])
    return Call(route.template, route.params, dict(scope["headers"]), options, read, left)


async def answer(service: Service, call: Call, state: RequestState) -> Reply:
    """Answer one request of any contract over any transport: decode, ask the model, encode.

    Raises:
        ServingError: the request gets no prediction.
        ClientDisconnect: its sender has left.
    """
    options = call.options
    model = service.model(call.params.get("model"), call.params.get("version"))
    with (
        model.used(),
        model.admission.request(within_s(options), is_crowded=state.is_crowded) as request,
    ):
        began = asyncio.get_running_loop().time()
        wanted = Wanted(service, model, options)  # what is known is checked before the body
        head = Head(
            template=call.template,
            params=call.params,
            headers=call.headers,
            options=options,
            name=model.name,
            version=model.version,
            bundle=model.engine.bundle,
            settings=service.settings,
        )
        asked = await _received(service, call, head, state, request, began)
        if asked.options is not options:
            wanted = Wanted(service, model, asked.options)
        deadline = began + within_s(asked.options)  # by the event loop's clock
        state.notes["images"] = len(asked.images)
        shadow = service.shadow
        copies = None if shadow is None else shadow.copies(model, asked.images)
        images = request.accept(asked.images, within_s(asked.options))
        if shadow is not None:
            copies = shadow.held(request, copies)
        if wanted.maps is not None:
            hold_maps(model.engine, request, images, wanted.maps)
        state.times = [image.times for image in images]
        outputs_N = await classified(
            model.bridge, request, images, wanted.mode, call.left, deadline
        )
        state.notes["members_used"] = sum([len(each.probs_dK) for each in outputs_N])
        answered = InferenceResponse(
            [with_summary(each, model.engine.bundle) for each in outputs_N],
            asked.options,
            wanted.promised,
            model.name,
            model.version,
            model.engine.bundle,
        )
        _count(service, model, wanted.mode, answered)
    if shadow is not None and copies is not None:
        shadow.ask(copies, answered)
    return asked.encode(answered)


class Wanted:
    """What a request wants of a model beside the answer, once the model is known to give it.

    Raises:
        InvalidParameter, NotExplainable: the model does not give what the options ask for.
    """

    def __init__(self, service: Service, model: Model, options: PredictOptions) -> None:
        self.mode = options.mode or service.settings.mode
        if options.mode is not None:  # the server's own mode was checked when the model came
            model.engine.check_mode(self.mode)
        self.promised = promised(model.engine, self.mode, options)
        self.maps: Asked | None = None
        if options.explain or options.novelty is not None:
            self.maps = model.engine.asked(options.explain, options.novelty)


def within_s(options: PredictOptions) -> float:
    """Seconds in which the sender of a request needs the answer."""
    return math.inf if options.deadline_ms is None else options.deadline_ms / 1000


def hold_maps(
    engine: Engine, request: PendingRequest, images: Sequence[PendingImage], asked: Asked
) -> None:
    """Have the answers to images explained, and hold the bytes that it takes.

    Raises:
        InvalidParameter: it would take more than all requests together may hold.
        Overloaded: it would take more than is free.
    """
    assert engine.maps is not None
    size, limit = len(images) * asked.max_bytes(engine.maps), engine.admission.memory.limit
    if size > limit:
        raise InvalidParameter(
            f"explain: the maps of {len(images)} images take up to {size:,} bytes, all requests "
            f"together may hold {limit:,}; ask about fewer images or classes at a time"
        )
    request.hold(size)
    for image in images:
        image.asked = asked


async def _received(
    service: Service,
    call: Call,
    head: Head,
    state: RequestState,
    request: PendingRequest,
    began: float,
) -> InferenceRequest:
    """Read what a request asks, and measure how long it took, well or not."""
    started = time.monotonic()
    try:
        return await call.read(request, head, began + within_s(head.options))
    finally:
        ended = time.monotonic()
        service.metrics.receive_seconds.observe(ended - started)
        state.received = started, ended


def _count(service: Service, model: Model, mode: Mode, answered: InferenceResponse) -> None:
    """Count how sure the answers to a request are, for the metrics and for drift."""
    most_nats = math.log(len(answered.bundle.classes))
    for outputs in answered.outputs_N:
        summary = outputs.summary
        assert summary is not None
        service.metrics.entropy.observe(summary.entropy_nats / most_nats)
        if answered.promised.abstains(outputs):
            service.metrics.abstained.inc()
        if outputs.partial_of is not None:
            service.metrics.partial.inc()
        # The reference is of full answers; those of fewer members are spread in another way.
        elif model.drift is not None and mode == "full":
            model.drift.add(confidence=max(summary.probs_K), disagreement=summary.disagreement_nats)


def options_of(query: bytes) -> PredictOptions:
    """The parameters of a query; of one that is repeated, except `explain`, the last counts.

    Raises:
        InvalidParameter: one is unknown or out of bounds, and the message names it; or the query
            is longer than all parameters together could be.
    """
    if len(query) > MAX_QUERY_BYTES:
        raise InvalidParameter(
            f"the query has {len(query):,} bytes, at most {MAX_QUERY_BYTES:,} are accepted"
        )
    return _options_of(query)


@lru_cache(maxsize=256)
def _options_of(query: bytes) -> PredictOptions:
    params = QueryParams(query)
    repeated = {"explain": params.getlist("explain")} if "explain" in params else {}
    return checked_options({**params, **repeated})
