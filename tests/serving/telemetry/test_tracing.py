import gzip
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from snapensemble.server_process import server_process
from snapensemble.serving.http.app import create_app
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.settings import Settings
from snapensemble.serving.telemetry.tracing import (
    MOST_WAITING,
    Exchanged,
    Traces,
    are_wanted,
    exported_traces,
)
from tests.fakes import client, fail_members
from tests.serving.http.test_http import HEADERS, PNG, is_problem

pytest.importorskip("opentelemetry.sdk", reason="an extra")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
    InMemorySpanExporter,
)
from opentelemetry.trace import SpanKind, StatusCode

pytestmark = pytest.mark.extra

TRACE = "0af7651916cd43dd8448eb211c80319c"
MS = 1_000_000  # spans are put on the wall clock one by one
PARENT = "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def http(engine: Engine, exporter: InMemorySpanExporter) -> httpx.AsyncClient:
    return client(create_app(Settings(), engine, traces=Immediate(provided(exporter))))


class Immediate(Traces):
    """Makes its spans at once, so that they are there when the answer is."""

    def add(self, exchanged: Exchanged) -> None:
        self._record(exchanged)


def provided(exporter: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    spans = exporter.get_finished_spans()
    assert len({span.name for span in spans}) == len(spans)
    return {span.name: span for span in spans}


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_prediction_is_a_span_with_its_stages(
    http: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    reply = await http.post("/predict", files=[("f", ("x.png", PNG))] * 2)
    spans = by_name(exporter)
    assert set(spans) == {"POST /predict", "receive", "decode", "queue", "inference"}
    request = spans.pop("POST /predict")
    assert request.kind is SpanKind.SERVER and request.parent is None
    assert request.status.status_code is StatusCode.UNSET
    assert attributes(request) == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "snapensemble.request_id": reply.headers["x-request-id"],
        "snapensemble.images": 2,
        "snapensemble.members_used": 6,
    }
    for span in spans.values():
        assert span.parent == request.context
    start, end = (
        {name: getattr(span, f"{which}_time") for name, span in spans.items()}
        for which in ("start", "end")
    )
    assert end["receive"] < start["queue"] + MS
    assert start["queue"] < start["decode"] + MS and start["decode"] < end["queue"] + MS
    assert end["queue"] == pytest.approx(start["inference"], abs=MS)
    assert start["inference"] < end["inference"]


async def test_the_trace_of_the_client_goes_on(
    http: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    await http.post("/predict", content=PNG, headers={**HEADERS, **TRACEPARENT})
    assert {f"{span.context.trace_id:032x}" for span in exporter.get_finished_spans()} == {TRACE}
    parent = by_name(exporter)["POST /predict"].parent
    assert parent is not None and f"{parent.span_id:016x}" == PARENT


@pytest.mark.parametrize("value", ["", "junk", "00-0-0-00", f"ff-{TRACE}-{PARENT}-01", "é"])
async def test_a_traceparent_that_is_none_begins_a_trace(
    http: httpx.AsyncClient, exporter: InMemorySpanExporter, value: str
) -> None:
    headers = [(b"traceparent", value.encode())]
    assert (await http.get("/model", headers=headers)).status_code == 200
    assert by_name(exporter)["GET /model"].parent is None


def test_a_request_that_waits_for_its_spans_keeps_of_its_head_what_names_a_trace(
    exporter: InMemorySpanExporter,
) -> None:
    """Heads are of up to 64 KiB, and thousands may wait."""
    traces = Traces(provided(exporter))
    parent = TRACEPARENT["traceparent"].encode()
    head = [(b"traceparent", parent), (b"x-large", b"x" * 60_000), (b"tracestate", b"k=" * 9_000)]
    assert traces.carrier(head) == TRACEPARENT


async def test_a_client_that_wants_no_trace_gets_none(
    http: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    unsampled = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    assert (await http.post("/predict", content=PNG, headers=unsampled)).status_code == 200
    assert not exporter.get_finished_spans()


async def test_paths_that_clients_chose_are_in_no_span(
    http: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    await http.get("/secret/path?secret=query")
    (span,) = exporter.get_finished_spans()
    assert span.name == "GET" and "secret" not in span.to_json()
    assert attributes(span)["http.response.status_code"] == 404
    assert span.status.status_code is StatusCode.UNSET


async def test_what_the_server_got_wrong_is_an_error(
    http: httpx.AsyncClient, engine: Engine, exporter: InMemorySpanExporter
) -> None:
    fail_members(engine, RuntimeError("oops"))
    is_problem(await http.post("/predict", content=PNG), 500, "inference_failed")
    spans = by_name(exporter)
    assert spans["POST /predict"].status.status_code is StatusCode.ERROR
    assert "inference" in spans and "oops" not in spans["POST /predict"].to_json()


async def test_a_picture_that_cannot_be_read_has_no_inference(
    http: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    is_problem(await http.post("/predict", content=b"text"), 422, "invalid_image")
    assert set(by_name(exporter)) == {"POST /predict", "receive", "queue", "decode"}


def exchanged(identity: str) -> Exchanged:
    return Exchanged("GET", "http", {}, "/model", identity, 200, 1.0, 2.0, {}, None, [])


def test_every_request_that_has_come_is_a_span_when_it_ends(
    exporter: InMemorySpanExporter,
) -> None:
    with Traces(provided(exporter)) as traces:
        for number in range(100):
            traces.add(exchanged(f"{number}"))
    told = [attributes(span)["snapensemble.request_id"] for span in exporter.get_finished_spans()]
    assert told == [f"{number}" for number in range(100)]


def test_requests_of_which_no_span_is_made_yet_are_bounded_which_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    traces = Traces(TracerProvider(shutdown_on_exit=False))  # nobody makes spans
    for _ in range(MOST_WAITING + 10):
        traces.add(exchanged("x"))
    assert traces._queue.qsize() == MOST_WAITING and len(caplog.records) == 1


def test_a_request_of_which_no_span_can_be_made_does_not_end_the_thread(
    exporter: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    with Traces(provided(exporter)) as traces:
        traces.add(replace(exchanged("bad"), started=math.nan))
        traces.add(exchanged("good"))
    assert len(exporter.get_finished_spans()) == 1 and "no spans could be made" in caplog.text


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, False),
    ],
)
def test_the_standard_variables_decide(environment: dict[str, str], wanted: bool) -> None:
    assert are_wanted(environment) is wanted


def test_what_cannot_be_had_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with exported_traces() as traces:
        assert traces is None
    assert "snapensemble[otel]" in caplog.text


def test_a_server_without_traces_imports_no_sdk_and_no_exporter(bundle_dir: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from snapensemble.serving.http.app import create_app
from snapensemble.serving.inference.engine import load_engine
from snapensemble.serving.settings import Settings
from snapensemble.serving.telemetry.tracing import exported_traces
with exported_traces() as traces, load_engine(Path({str(bundle_dir)!r})) as engine:
    create_app(Settings(), engine, traces=traces)
print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exp"))])
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.stdout == "[]\n", done.stderr


class Collector(ThreadingHTTPServer):
    """Takes spans as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans: list[tuple[str, str, str]] = []  # service, name, trace

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        assert isinstance(self.server, Collector) and self.path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            (service,) = (
                each.value.string_value
                for each in resource.resource.attributes
                if each.key == "service.name"
            )
            self.server.spans += [
                (service, span.name, span.trace_id.hex())
                for scope in resource.scope_spans
                for span in scope.spans
            ]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_sends_its_traces_before_it_ends(
    bundle_dir: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    with server_process(bundle_dir, "--port", "0", "--workers", workers) as (process, url):
        for _ in range(3):
            assert httpx.post(f"{url}/predict", content=PNG, headers=TRACEPARENT).is_success
        process.terminate()
        assert process.wait(30) == 0
    names = ["POST /predict", "decode", "inference", "queue", "receive"]
    assert sorted(collector.spans) == sorted([("snapensemble", n, TRACE) for n in names] * 3)


def test_a_collector_that_is_not_there_stops_nothing(
    bundle_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with server_process(bundle_dir, "--port", "0") as (process, url):
        assert httpx.post(f"{url}/predict", content=PNG).is_success
        process.terminate()
        assert process.wait(30) == 0
