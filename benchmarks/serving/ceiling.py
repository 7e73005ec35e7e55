"""How much of what the machine can do in process is left over HTTP?

    python -m benchmarks.serving.ceiling DIR                       # a bundle, or a run
    python -m benchmarks.serving.ceiling DIR --pictures PHOTOS     # real files instead of noise
    python -m benchmarks.serving.ceiling DIR --against-fastapi     # and a server that does nothing

One picture per request. Requests/s over HTTP (wrk, 1, 8 and 32 connections) divided by the same
work in process: decode and run all members, with every lane busy. Beside it stands what a lone
request takes over HTTP and in process. All ways take turns, round by round; ratios are those of one
round.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.children import ended
from benchmarks.machine import save, spread
from benchmarks.serving.bundles import add_arguments, bundle_of, pictures_of
from benchmarks.serving.wrk import find_wrk, run_wrk, write_script
from snapensemble.contracts.bundle import read_bundle
from snapensemble.server_process import server_process
from snapensemble.serving.inference.engine import Engine, load_engine

CONNECTIONS = (1, 8, 32)
IN_PROCESS = 64  # pictures under way: enough for the largest micro-batch while one runs


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, "serving-ceiling")
    parser.add_argument("--rounds", type=int, default=5, help="after one that warms up (5)")
    parser.add_argument("--seconds", type=float, default=5, help="of one turn (5)")
    parser.add_argument("--against-fastapi", action="store_true", help="and a server without work")
    args = parser.parse_args()
    find_wrk()
    with bundle_of(args) as bundle_dir:
        pictures = pictures_of(args, bundle_dir)
        rounds = measure(bundle_dir, pictures.encoded, args)
        bundle = read_bundle(bundle_dir)
    figures = {
        "members": len(bundle.members),
        "image": bundle.image.shape,
        "pictures": pictures.source,
        "seconds": args.seconds,
        "rounds": rounds,
    }
    save(args.name, figures, table(rounds))


def measure(
    bundle_dir: Path, pictures: Sequence[bytes], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """The figures of each round."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        script = write_script(folder, pictures, "/predict")
        _, url = stack.enter_context(server_process(bundle_dir, "--port", "0"))
        servers = {"http": url}
        if args.against_fastapi:
            answer = httpx.post(f"{url}/predict", content=pictures[0]).raise_for_status().text
            servers["fastapi"] = stack.enter_context(minimal_fastapi(folder, answer))
        engine = stack.enter_context(load_engine(bundle_dir))
        rounds = []
        for turn in range(args.rounds + 1):
            found: dict[str, Any] = {
                "in_process_per_second": in_process_rate(engine, pictures, args.seconds),
                "in_process_lone_p50_ms": in_process_lone(engine, pictures, args.seconds),
            }
            for name, base in servers.items():
                for count in CONNECTIONS:
                    load = partial(run_wrk, base, script, seconds=args.seconds)
                    found[f"{name}, {count}"] = load(concurrency=count)
            if turn:  # the first turn warms up
                rounds.append(found)
            print(f"round {turn} of {args.rounds}", file=sys.stderr)
    return rounds


def in_process_rate(engine: Engine, pictures: Sequence[bytes], seconds: float) -> float:
    """Encoded pictures answered per second, with enough of them queued to keep all lanes busy."""
    end, under_way = time.monotonic() + seconds, threading.Semaphore(0)
    answered: list[int] = []  # appending needs no lock

    def begin(number: int) -> None:
        (future,) = engine.submit([pictures[number % len(pictures)]])
        future.add_done_callback(partial(finish, number))

    def finish(number: int, _: "Future[Any]") -> None:
        if time.monotonic() < end:
            answered.append(number)
            begin(number + IN_PROCESS)
        else:
            under_way.release()

    started = time.monotonic()
    for number in range(IN_PROCESS):
        begin(number)
    for _ in range(IN_PROCESS):
        under_way.acquire()
    return len(answered) / (end - started)


def in_process_lone(engine: Engine, pictures: Sequence[bytes], seconds: float) -> float:
    """Median milliseconds to decode one picture and run all members while nothing else goes on."""
    end = time.monotonic() + seconds
    took_ms: list[float] = []
    while (started := time.monotonic()) < end:
        engine.submit([pictures[len(took_ms) % len(pictures)]])[0].result()
        took_ms.append((time.monotonic() - started) * 1000)
    return float(np.median(took_ms))


@contextmanager
def minimal_fastapi(folder: Path, answer: str) -> Iterator[str]:
    """A server that reads the body and always answers this JSON; its URL."""
    file = folder / "answer.json"
    file.write_text(answer)
    command = [sys.executable, "-m", "benchmarks.serving.minimal_fastapi", str(file)]
    with ended(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


def table(rounds: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A row per way: rate, latency and ratio to the same work in process."""
    rows: list[tuple[str, ...]] = [
        ("way", "requests/s", "p50 ms", "p99 ms", "of in process", "failed")
    ]
    ceiling = [found["in_process_per_second"] for found in rounds]
    lone_ms = [found["in_process_lone_p50_ms"] for found in rounds]
    rows.append(("in process, all lanes busy", spread(ceiling, ".0f"), "", "", "", ""))
    rows.append(("in process, one at a time", "", spread(lone_ms, ".2f"), "", "", ""))
    names = {"http": "HTTP", "fastapi": "FastAPI without work"}
    for way in (name for name in rounds[0] if ", " in name):
        server, _, count = way.partition(", ")
        turns = [found[way] for found in rounds]
        rates = [turn["requests_per_second"] for turn in turns]
        ratios = [rate / most for rate, most in zip(rates, ceiling, strict=True)]
        rows.append(
            (
                f"{names[server]}, c={count}",
                spread(rates, ".0f"),
                spread([turn["p50_ms"] for turn in turns], ".2f"),
                spread([turn["p99_ms"] for turn in turns], ".2f"),
                spread(ratios, ".2f") if server == "http" else "",
                f"{sum(turn['failed'] for turn in turns):.0f}",
            )
        )
    added = [found["http, 1"]["p50_ms"] - ms for found, ms in zip(rounds, lone_ms, strict=True)]
    rows.append(("HTTP adds to a lone request", "", spread(added, ".2f"), "", "", ""))
    return rows


if __name__ == "__main__":
    main()
