"""What does a prediction take of the event loop's thread, and of the whole process?

    python -m benchmarks.serving.request_cost DIR [--repetitions 7]

In process: no sockets, no HTTP parsing. 32 requests are under way at any time, one picture each.
Processor time per request, answered, and refused for overload.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.machine import save, spread
from benchmarks.serving.bundles import add_arguments, bundle_of, pictures_of
from snapensemble.serving.http.app import Application, create_app
from snapensemble.serving.http.scope import mark_whole
from snapensemble.serving.inference.engine import load_engine
from snapensemble.serving.settings import Settings
from snapensemble.serving.telemetry.metrics import Metrics

UNDER_WAY = 32
REQUESTS = 3200  # per repetition
ACCEPTED_S = {"answered": Settings().max_wait_ms / 1000, "refused": -1.0}  # waits
HEADERS = [(b"content-type", b"application/octet-stream")]


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, "request-cost")
    parser.add_argument("--repetitions", type=int, default=7, help="after one that warms up (7)")
    args = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ACCEPTED_S}
    with (
        bundle_of(args) as bundle_dir,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ExitStack() as stack,
    ):
        apps = {
            name: stack.enter_context(application(bundle_dir, max_wait_s))
            for name, max_wait_s in ACCEPTED_S.items()
        }
        pictures = pictures_of(args, bundle_dir).encoded
        for turn in range(args.repetitions + 1):
            for name, app in apps.items():
                used = runner.run(measure(partial(ask, app), pictures))
                if turn:  # the first warms up
                    found[name].append(used)
    table: list[tuple[str, ...]] = [("request", "event loop's thread, µs", "whole process, µs")]
    for name, turns in found.items():
        columns = (spread([turn[key] for turn in turns], ".0f") for key in ("thread", "process"))
        table.append((name, *columns))
    save(args.name, {"requests": REQUESTS, "turns": found}, table)


@contextmanager
def application(bundle_dir: Path, max_wait_s: float) -> Iterator[Application]:
    """A server without a port, with an engine of its own."""
    metrics, limits = Metrics(), replace(Settings().limits(), max_wait_s=max_wait_s)
    with load_engine(
        bundle_dir, limits, on_batch=metrics.batch, on_decode=metrics.decoded
    ) as engine:
        yield create_app(Settings(), engine, metrics)


async def measure(
    ask_about: Callable[[bytes], Awaitable[None]], pictures: Sequence[bytes]
) -> dict[str, float]:
    """Microseconds of processor time per request."""

    async def client(number: int) -> None:
        for turn in range(REQUESTS // UNDER_WAY):
            await ask_about(pictures[(number + turn) % len(pictures)])

    thread_s, process_s = time.thread_time(), time.process_time()
    await asyncio.gather(*map(client, range(UNDER_WAY)))
    return {
        "thread": 1e6 * (time.thread_time() - thread_s) / REQUESTS,
        "process": 1e6 * (time.process_time() - process_s) / REQUESTS,
    }


async def ask(app: Application, picture: bytes) -> None:
    """One request, as an ASGI server hands it over."""
    messages = [{"type": "http.request", "body": picture, "more_body": False}]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": "/predict", "raw_path": b"/predict", "query_string": b"",
        "root_path": "", "headers": HEADERS, "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2), "state": {},
    }  # fmt: skip
    mark_whole(scope)
    await app(scope, partial(receive, messages), send)


async def receive(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The body, and then nothing: the client stays."""
    if messages:
        return messages.pop()
    nothing: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    return await nothing


async def send(_: Any) -> None:
    """Nobody reads it."""


if __name__ == "__main__":
    main()
