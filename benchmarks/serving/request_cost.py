"""What does a prediction take of the event loop's thread, and of the whole process?

    python -m benchmarks.serving.request_cost DIR [--repetitions 7] [--ways raw json ...]

Requests are handed over in process, without sockets or HTTP parsing. 32 of them are under way at
any time, one picture each, whose body has come whole. The figures are processor time per request,
for pictures sent as they are, with a deadline, with spans for OpenTelemetry (that nobody collects),
with a line in the access log, in a form, in JSON, and refused for overload.
"""

import argparse
import asyncio
import base64
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import uvloop
from fastapi import FastAPI

from benchmarks.machine import save, spread
from benchmarks.serving.bundles import add_arguments, bundle_of, pictures_of
from snapensemble.serving.http.app import create_app
from snapensemble.serving.http.exchange import STATE, RequestState
from snapensemble.serving.inference.engine import load_engine
from snapensemble.serving.settings import Settings
from snapensemble.serving.telemetry.logs import JsonLines
from snapensemble.serving.telemetry.metrics import Metrics
from snapensemble.serving.telemetry.tracing import Traces

UNDER_WAY = 32
FORM_HEAD = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
TRACE = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


class Way(NamedTuple):
    """One way to ask about a picture."""

    content_type: bytes = b"application/octet-stream"
    query: bytes = b""
    body: Callable[[bytes], bytes] = bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    max_wait_s: float = Settings().max_wait_ms / 1000
    has_traces: bool = False
    has_access_log: bool = False


WAYS = {
    "raw": Way(),
    "deadline": Way(query=b"deadline_ms=60000"),
    "traces": Way(headers=(TRACE,), has_traces=True),
    "access log": Way(has_access_log=True),
    "form": Way(
        b"multipart/form-data; boundary=x", body=lambda p: FORM_HEAD + p + b"\r\n--x--\r\n"
    ),
    "json": Way(b"application/json", body=lambda p: b'{"images":["' + base64.b64encode(p) + b'"]}'),
    "refused": Way(max_wait_s=-1.0),
}


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, "request-cost")
    parser.add_argument("--repetitions", type=int, default=7, help="after one that warms up (7)")
    parser.add_argument("--requests", type=int, default=3200, help="in each repetition (3200)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="(all)")
    args = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in args.ways}
    with (
        bundle_of(args) as bundle_dir,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ExitStack() as stack,
    ):
        apps = {name: stack.enter_context(served(bundle_dir, WAYS[name])) for name in args.ways}
        pictures = pictures_of(args, bundle_dir).encoded
        for turn in range(args.repetitions + 1):
            for name, app in apps.items():
                used = runner.run(measure(app, WAYS[name], pictures, args.requests))
                if turn:  # the first turn warms up
                    found[name].append(used)
    table: list[tuple[str, ...]] = [
        ("request", "event loop's thread, µs", "of the first row", "whole process, µs")
    ]
    first = [turn["thread"] for turn in found[args.ways[0]]]
    for name, turns in found.items():
        thread = [turn["thread"] for turn in turns]
        ratios = [each / raw for each, raw in zip(thread, first, strict=True)]
        process = [turn["process"] for turn in turns]
        table.append((name, spread(thread, ".0f"), spread(ratios, ".2f"), spread(process, ".0f")))
    save(args.name, {"requests": args.requests, "turns": found}, table)


@contextmanager
def served(bundle_dir: Path, way: Way) -> Iterator[FastAPI]:
    """A server without a port, with an engine of its own."""
    metrics, limits = Metrics(), replace(Settings().limits(), max_wait_s=way.max_wait_s)
    with (
        load_engine(
            bundle_dir, limits, on_batch=partial(metrics.batch, "model"), on_decode=metrics.decoded
        ) as engine,
        traces_to_nobody() if way.has_traces else ExitStack() as traces,
        log_to_nobody() if way.has_access_log else ExitStack(),
    ):
        yield create_app(
            Settings(access_log=way.has_access_log),
            engine,
            metrics,
            traces=traces if isinstance(traces, Traces) else None,
        )


@contextmanager
def traces_to_nobody() -> Iterator[Traces]:
    """Traces whose spans are gathered as ever, and then forgotten instead of sent."""
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import (
        BatchSpanProcessor,
        SpanExporter,
        SpanExportResult,
    )

    class Nobody(SpanExporter):
        def export(self, _: Sequence[ReadableSpan]) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Nobody()))
    with Traces(provider) as traces:
        yield traces
    provider.shutdown()


@contextmanager
def log_to_nobody() -> Iterator[None]:
    """Write the access log's lines as JSON to where nobody reads them."""
    logger = logging.getLogger("snapensemble.access")
    with Path(os.devnull).open("w") as stream:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(JsonLines())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        yield
        logger.removeHandler(handler)


async def measure(
    app: FastAPI, way: Way, pictures: Sequence[bytes], requests: int
) -> dict[str, float]:
    """Microseconds of processor time per request."""
    bodies = [way.body(picture) for picture in pictures]
    headers = [(b"content-type", way.content_type), *way.headers]

    async def client(number: int) -> None:
        for turn in range(max(1, requests // UNDER_WAY)):
            await ask(app, headers, way.query, bodies[(number + turn) % len(bodies)])

    thread_s, process_s = time.thread_time(), time.process_time()
    await asyncio.gather(*map(client, range(UNDER_WAY)))
    return {
        "thread": 1e6 * (time.thread_time() - thread_s) / requests,
        "process": 1e6 * (time.process_time() - process_s) / requests,
    }


async def ask(
    app: FastAPI, headers: Sequence[tuple[bytes, bytes]], query: bytes, body: bytes
) -> None:
    """Hand one request to the app, as an ASGI server does."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": "/predict", "raw_path": b"/predict", "query_string": query,
        "root_path": "", "headers": headers, "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2), "state": {STATE: RequestState(is_whole=True)},
    }  # fmt: skip
    await app(scope, partial(receive, messages), send)


async def receive(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The body, and then nothing: the client stays."""
    if messages:
        return messages.pop()
    nothing: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    return await nothing


async def send(_: Any) -> None:
    """Take a message of the answer, which nobody reads."""


if __name__ == "__main__":
    main()
