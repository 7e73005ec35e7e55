"""One request and its answer: counted, logged, traced and given its headers in this one place."""

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from snapensemble.serving.errors import Stopping
from snapensemble.serving.http.problems import (
    Words,
    internal_problem,
    problem_document,
    serving_problem,
    words_here,
)
from snapensemble.serving.inference.request import Times
from snapensemble.serving.shutdown import Shutdown
from snapensemble.serving.telemetry.logs import log_access, request_id
from snapensemble.serving.telemetry.metrics import Metrics
from snapensemble.serving.telemetry.tracing import Exchanged, Traces

STATE = "snapensemble"  # the key of a `RequestState` in the state of its scope
OTHER = "other"  # the label of all paths that do not exist
NO_ANSWER = 499  # no answer was begun: the client has left, or the server had to stop
# Headers of an answer whose handler sets no others. It is about one picture and of one moment.
DEFAULTS = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}
_ACCEPTED = re.compile(rb"[\x21-\x7e]{1,128}")  # printable and without a space, so it is one word
_ids = random.Random()  # noqa: S311 # unique, not secret; asking the system takes ten times as long
log = logging.getLogger("snapensemble")


@dataclass(slots=True)
class RequestState:
    """What protocol and handlers write of one request, and the exchange around them reads.

    It lies in the `state` of the ASGI scope.
    """

    # The request came over a connection beyond the limit. Its prediction is refused and the
    # connection closed. Probes and metrics are answered, so that whoever watches the server can
    # see why.
    is_crowded: bool = False
    # The template of its path, where names are in it, as the label of what is counted.
    route: str | None = None
    # All of its body has come, so nobody has to look at the clock while it is read.
    is_whole: bool = False
    # The status with which the protocol has refused it, as what came after the head was not HTTP.
    refused_status: int = 0
    # Counts of images and members for the access log and the trace.
    notes: dict[str, int] = field(default_factory=dict)
    # For the trace: when the body began to come and had come, and the moments of the images.
    received: tuple[float, float] | None = None
    times: Sequence[Times] = ()


class Exchanges:
    """The outermost layer: every request passes it once.

    Plain ASGI: the wrapper classes of the framework hide from a handler that its client left.

    Args:
        app: answers the requests.
        routes: the paths that exist. Others share one label, or anyone could make as many labels
            as they like.
        metrics: counts the requests.
        shutdown: ends connections once the server stops.
        words: how errors are put that answer requests to a path.
        traces: makes spans of the requests; there are none without it.
        access_log: whether to write a line for each request.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Collection[str],
        metrics: Metrics,
        shutdown: Shutdown,
        words: Callable[[str], Words] = lambda _: problem_document,
        traces: Traces | None = None,
        *,
        access_log: bool = False,
    ) -> None:
        self._app = app
        self.routes = routes
        self.metrics = metrics
        self.shutdown = shutdown
        self.words = words
        self.traces = traces
        self.access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with Exchange(self, scope, send) as exchange:
            try:
                await self._app(scope, receive, exchange.send)
            except asyncio.CancelledError:
                if exchange.status or not self.shutdown.stopping:
                    raise
                late = Stopping("the server had to end before the request was answered")
                await serving_problem(late, self.metrics)(scope, receive, exchange.send)
            except Exception:  # a defect: logged here, and the client learns no more than that
                log.exception("unexpected error in %s %s", scope["method"], exchange.route)
                if not exchange.status:
                    problem = internal_problem(self.metrics)
                    await problem(scope, receive, exchange.send)


class Exchange:
    """One request and its answer: a context manager around all that happens to the request.

    Args:
        layer: has what all requests share.
        scope: the ASGI scope of the request.
        send: sends messages to the client.
    """

    def __init__(self, layer: Exchanges, scope: Scope, send: Send) -> None:
        self.status = 0  # as long as there is no answer
        self._layer = layer
        self._scope = scope
        self._state: RequestState = scope.setdefault("state", {}).setdefault(STATE, RequestState())
        self._send = send
        self.identity = id_of_request(scope["headers"])

    def __enter__(self) -> "Exchange":
        self._started = time.monotonic()
        self._tokens = (
            request_id.set(self.identity),
            words_here.set(self._layer.words(self._scope["path"])),
        )
        return self

    def __exit__(self, *error: object) -> None:
        status = self.status or self._state.refused_status or NO_ANSWER
        ended = time.monotonic()
        seconds = ended - self._started
        self._layer.metrics.request(self.route, status, seconds)
        if self._layer.access_log:
            log_access(
                method=self._scope["method"],
                route=self.route,
                status=status,
                milliseconds=round(seconds * 1000, 3),
                **self._state.notes,
            )
        if self._layer.traces is not None:
            route = None if self.route == OTHER else self.route
            self._layer.traces.add(
                Exchanged(
                    method=self._scope["method"],
                    scheme=self._scope["scheme"],
                    carrier=self._layer.traces.carrier(self._scope["headers"]),
                    route=route,
                    identity=self.identity,
                    status=self.status,
                    started=self._started,
                    ended=ended,
                    notes=self._state.notes,
                    received=self._state.received,
                    times=self._state.times,
                )
            )
        request_id.reset(self._tokens[0])
        words_here.reset(self._tokens[1])

    @property
    def route(self) -> str:
        """The path, or its template, or the label that all paths share which do not exist."""
        path: str = self._scope["path"]
        if path in self._layer.routes:
            return path
        template = self._state.route or getattr(self._scope.get("route"), "path", None)
        return template or OTHER

    async def send(self, message: Message) -> None:
        """Pass a message on; a head gets the headers that every answer carries."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            present = {name for name, _ in headers}
            headers += [pair for pair in DEFAULTS.items() if pair[0] not in present]
            headers.append((b"x-request-id", self.identity.encode()))
            if (
                self._layer.shutdown.stopping or self._state.is_crowded
            ) and b"connection" not in present:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)


def id_of_request(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The X-Request-ID that came with a request, or a new one if there is none that can be used.

    Args:
        headers: names in lower case, as ASGI gives them.
    """
    for name, value in headers:
        if name == b"x-request-id" and _ACCEPTED.fullmatch(value):
            return value.decode()
    return f"{_ids.getrandbits(128):032x}"
