"""Traces of requests for OpenTelemetry, where the environment asks for them.

Otherwise no SDK and no exporter is imported; the server does without them.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from starlette.types import Scope

from snapensemble.serving.http.scope import noted
from snapensemble.serving.inference.request import Answer
from snapensemble.serving.telemetry.logs import request_id

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

NAME = "snapensemble"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
LAST_S = 3.0
log = logging.getLogger("snapensemble")


def are_wanted(environment: Mapping[str, str]) -> bool:
    """Whether the standard variables ask for traces; without any of them, no.

    What is asked for and cannot be had is no reason not to serve: the log says so.
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
        left_s: asked then, how long it may take at most.
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
    try:
        yield Traces(provider)
    finally:
        last = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
        last.start()
        # By itself it would try for longer than containers have to stop.
        last.join(may_take_s := min(LAST_S, left_s()))
        if last.is_alive():
            log.warning("the last traces could not be sent within %.1f s", may_take_s)


class Traces:
    """Makes a span for each request, and in it one for each of its stages."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import propagate, trace

        self._tracer = provider.get_tracer(NAME, version(NAME))
        self._extract = propagate.extract
        self._trace = trace

    @contextlib.contextmanager
    def request(self, scope: Scope, routes: Collection[str]) -> Iterator["RequestSpan"]:
        """The span of a request, part of the trace that its `traceparent` names."""
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        method = scope["method"]
        attributes = {"http.request.method": method, "url.scheme": scope["scheme"]}
        name = method
        if scope["path"] in routes:  # no other: a client chose it
            attributes["http.route"] = scope["path"]
            name = f"{method} {scope['path']}"
        if (identity := request_id.get()) is not None:
            attributes["snapensemble.request_id"] = identity
        with self._tracer.start_as_current_span(
            name,
            context=self._extract(headers),
            kind=self._trace.SpanKind.SERVER,
            attributes=attributes,
        ) as span:
            answered = RequestSpan()
            try:
                yield answered
            finally:
                said = noted(scope).items()
                span.set_attributes({f"snapensemble.{key}": value for key, value in said})
                if answered.status:
                    span.set_attribute("http.response.status_code", answered.status)
                if answered.status >= 500 or not answered.status:
                    span.set_status(self._trace.StatusCode.ERROR)

    def stage(self, name: str, started: float, ended: float) -> None:
        """A stage of the current request that is over; both times by `time.monotonic`."""
        offset_ns = time.time_ns() - time.monotonic_ns()  # spans are dated by the wall clock
        span = self._tracer.start_span(name, start_time=offset_ns + int(started * 1e9))
        span.end(offset_ns + int(ended * 1e9))

    def answers(self, answers: Sequence[Answer]) -> None:
        """The stages `queue`, `decode` and `inference` of a request that is over.

        The queue ends where the first image meets a member; decoding and inference go from the
        first image's start to the last one's end.
        """
        now = time.monotonic()
        times = [answer.times for answer in answers]
        begun = [each.begun for each in times if each.begun is not None]
        self.stage("queue", min(each.accepted for each in times), min(begun, default=now))
        if decoding := [each for each in times if each.decoding is not None]:
            ended = max(each.decoded or now for each in decoding)
            self.stage("decode", min(each.decoding or now for each in decoding), ended)
        if begun:
            self.stage("inference", min(begun), max(each.ended or now for each in times))


class RequestSpan:
    """What is known of a request when it is over."""

    status = 0
