"""Traces of requests for OpenTelemetry, where the environment asks for them.

Otherwise no SDK and no exporter is imported, and neither need be installed.
"""

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from snapensemble.contracts.cpu import stand_back
from snapensemble.serving.inference.request import Times

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

NAME = "snapensemble"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
LAST_S = 3.0
MOST_WAITING = 2048  # requests of which no spans are made yet
MOST_BYTES = 512  # of a header that is kept: W3C Trace Context asks no more of `tracestate`
log = logging.getLogger("snapensemble")


def are_wanted(environment: Mapping[str, str]) -> bool:
    """Whether the standard variables ask for traces; without any of them they do not.

    What is asked for and cannot be had is no reason not to serve, but the log says so.
    """
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    is_off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if is_off or exporter == "none" or not (exporter or any(map(environment.get, ENDPOINTS))):
        return False
    protocols = [environment[name] for name in PROTOCOLS if environment.get(name)] or [PROTOCOL]
    if exporter in ("", "otlp") and protocols[0] == PROTOCOL:
        return True
    log.warning(
        "no traces: they can be sent by otlp over %s only, not by %s over %s",
        PROTOCOL,
        exporter or "otlp",
        protocols[0],
    )
    return False


@contextlib.contextmanager
def exported_traces(left_s: Callable[[], float] = lambda: LAST_S) -> Iterator["Traces | None"]:
    """Traces that go where the environment says while the body runs; None if it does not ask.

    On leaving, what has not been sent yet is sent, if that does not take long.

    Args:
        left_s: called on leaving; says how long sending may take at most, seconds.
    """
    if not are_wanted(os.environ):
        yield None
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("no traces: OTEL_* asks for them; pip install 'snapensemble[otel]'")
        yield None
        return
    resource = Resource.create({SERVICE_VERSION: version(NAME)})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: NAME}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    traces = Traces(provider).__enter__()

    def end() -> None:
        traces.__exit__()
        provider.shutdown()

    try:
        yield traces
    finally:
        last = threading.Thread(target=end, name="last-traces", daemon=True)
        last.start()
        # The exporter by itself would try for longer than containers have to stop.
        last.join(may_take_s := min(LAST_S, left_s()))
        if last.is_alive():
            log.warning("the last traces could not be sent within %.1f s", may_take_s)


@dataclass(frozen=True, slots=True)
class Exchanged:
    """A request that is over; times by `time.monotonic`."""

    method: str
    scheme: str
    carrier: Mapping[str, str]  # the headers that name the client's trace, see `Traces.carrier`
    route: str | None  # None: the path is none of the server's, so the sender chose it
    identity: str
    status: int  # 0: there was no answer
    started: float
    ended: float
    notes: Mapping[str, int]
    received: tuple[float, float] | None  # when its body began to come, and had come
    times: Sequence[Times]  # those of its images


class Traces:
    """Makes a span of each request that is over, and in it one of each of its stages.

    To make them takes longer than all else that the event loop does for a request, so a thread
    does it. Use as a context manager.

    Args:
        provider: gets the spans.
    """

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import propagate, trace

        self._tracer = provider.get_tracer(NAME, version(NAME))
        self._extract = propagate.extract
        self._fields = {field.encode() for field in propagate.get_global_textmap().fields}
        self._trace = trace
        self._queue: queue.SimpleQueue[Exchanged | None] = queue.SimpleQueue()
        self._is_dropping = False
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)

    def __enter__(self) -> "Traces":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._queue.put(None)
        self._thread.join()

    def carrier(self, headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
        """The headers that name the trace of the client; nothing is kept of other headers."""
        return {
            name.decode(): value.decode("latin-1")
            for name, value in headers
            if name in self._fields and len(value) <= MOST_BYTES
        }

    def add(self, exchanged: Exchanged) -> None:
        """Have spans made of a request soon, or none if too many requests wait."""
        is_dropping = self._queue.qsize() >= MOST_WAITING
        if is_dropping and not self._is_dropping:
            log.warning("more requests come than spans can be made of; some have none")
        self._is_dropping = is_dropping
        if not is_dropping:
            self._queue.put(exchanged)

    def _run(self) -> None:
        stand_back()  # behind the thread that answers clients
        while (exchanged := self._queue.get()) is not None:
            try:
                self._record(exchanged)
            except Exception:  # those of the next requests are made all the same
                log.exception("no spans could be made of a request")

    def _record(self, exchanged: Exchanged) -> None:
        """Make the span of a request, in the trace that its `traceparent` names."""
        method, route, status = exchanged.method, exchanged.route, exchanged.status
        attributes = {
            "http.request.method": method,
            "url.scheme": exchanged.scheme,
            "snapensemble.request_id": exchanged.identity,
        }
        if route is not None:
            attributes["http.route"] = route
        offset_ns = time.time_ns() - time.monotonic_ns()  # spans are dated by the wall clock
        span = self._tracer.start_span(
            method if route is None else f"{method} {route}",
            context=self._extract(exchanged.carrier),
            kind=self._trace.SpanKind.SERVER,
            attributes=attributes,
            start_time=offset_ns + int(exchanged.started * 1e9),
        )
        context = self._trace.set_span_in_context(span)
        for name, started, ended in stages(exchanged):
            stage = self._tracer.start_span(
                name, context=context, start_time=offset_ns + int(started * 1e9)
            )
            stage.end(offset_ns + int(ended * 1e9))
        span.set_attributes(
            {f"snapensemble.{key}": value for key, value in exchanged.notes.items()}
        )
        if status:
            span.set_attribute("http.response.status_code", status)
        if status >= 500 or not status:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(offset_ns + int(exchanged.ended * 1e9))


def stages(exchanged: Exchanged) -> Iterator[tuple[str, float, float]]:
    """Name, start and end of each stage of a request.

    The queue ends where the first image meets a member; decoding and inference go from the first
    image's start to the last one's end. Lanes may go on with images that nobody waits for.
    """
    times, now = exchanged.times, exchanged.ended
    if exchanged.received is not None:
        yield ("receive", *exchanged.received)
    if not times:
        return
    begun = [each.begun for each in times if each.begun is not None and each.begun < now]
    yield "queue", min(each.accepted for each in times), min(begun, default=now)
    if decoding := [each for each in times if each.decoding is not None and each.decoding < now]:
        ended = max(min(each.decoded or now, now) for each in decoding)
        yield "decode", min(each.decoding or now for each in decoding), ended
    if begun:
        yield "inference", min(begun), max(min(each.ended or now, now) for each in times)
