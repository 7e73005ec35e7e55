"""Is a request lost, or kept waiting, when a new version takes over under load?

    python -m benchmarks.serving.reload DIR [--seconds 60] [--every 5] [--share 0.5] [-- FLAGS]

A server of one model is asked at a share of its capacity, at random times. Every few seconds a new
version of the same bundle is put beside the former one, the server gets SIGHUP, and the resident
memory is read again when the former version has gone. Latencies are compared between the second
after each SIGHUP, or longer if the new version answers alone only later, and the rest. The same
load without any new version comes first.
"""

import argparse
import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import httpx
import numpy as np
import uvloop

from benchmarks.machine import save
from benchmarks.serving.bundles import add_arguments, bundle_of, pictures_of
from snapensemble.bench.figures import MIB
from snapensemble.bench.http_load import HttpClient, Predictions
from snapensemble.bench.load import Sample, closed_loop, open_loop, poisson_arrivals
from snapensemble.bench.processes import resident_bytes
from snapensemble.server_process import server_process

CONCURRENCY = 8
CAPACITY_S = 5.0
Window = tuple[float, float]


def main() -> None:
    """Load, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, "reload")
    parser.add_argument("--seconds", type=float, default=60, help="of load, twice (60)")
    parser.add_argument("--every", type=float, default=5, help="seconds between versions (5)")
    parser.add_argument("--share", type=float, default=0.5, help="of the capacity (0.5)")
    parser.add_argument("flags", nargs="*", help="of `snapensemble serve`, after --")
    args = parser.parse_args()
    with bundle_of(args) as bundle_dir:
        figures = measure(bundle_dir, args)
    save(args.name, figures, table(figures))


def measure(bundle_dir: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The capacity, the load alone, then the load with new versions."""
    groups = [[each] for each in pictures_of(args, bundle_dir).encoded]
    with tempfile.TemporaryDirectory(prefix="snapensemble-reload-") as work:
        versions = Versions(Path(work) / "models", bundle_dir)
        with (
            server_process(
                versions.models, "--port", "0", *args.flags, stdin=DEVNULL, stderr=DEVNULL
            ) as (process, url),
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            return runner.run(loaded(versions, process.pid, url, groups, args))


class Versions:
    """A directory of one model, whose versions hold the same bundle."""

    def __init__(self, models: Path, bundle_dir: Path) -> None:
        self.models = models
        self._bundle_dir = bundle_dir
        self.last = 0
        self.add()

    def add(self) -> None:
        """Put one more version in its place, at once."""
        self.last += 1
        aside = self.models / ".aside"
        shutil.copytree(self._bundle_dir, aside)
        (self.models / "model").mkdir(exist_ok=True)
        aside.rename(self.models / "model" / str(self.last))


async def loaded(
    versions: Versions, pid: int, url: str, groups: list[list[bytes]], args: argparse.Namespace
) -> dict[str, Any]:
    """Both loads, one after the other."""
    client = HttpClient(url)
    ask = Predictions(client, groups)
    samples = await closed_loop(ask, concurrency=CONCURRENCY, seconds=CAPACITY_S)
    rate = args.share * len(samples) / CAPACITY_S
    alone = await open_loop(ask, poisson_arrivals(rate, args.seconds))
    memory_before = resident_bytes(pid)
    switching = asyncio.create_task(switch(versions, pid, url, args.seconds, args.every))
    changed = await open_loop(ask, poisson_arrivals(rate, args.seconds, seed=1))
    windows, memory, took = await switching
    await client.close()
    inside = [each for each in changed if any(a <= each.started <= b for a, b in windows)]
    outside = [each for each in changed if each not in inside]
    return {
        "requests_per_second": rate,
        "switches": len(windows),
        "switch_seconds": took,
        "failed": dict(Counter(each.answer.code for each in alone + changed if each.answer.code)),
        "latency_ms": {
            "alone": percentiles(alone),
            "between": percentiles(outside),
            "switch": percentiles(inside),
        },
        "memory_before": memory_before,
        "memory_after_each": memory,
    }


async def switch(
    versions: Versions, pid: int, url: str, seconds: float, every_s: float
) -> tuple[list[Window], list[int], list[float]]:
    """Bring a new version every few seconds; the seconds of each switch, the memory, how long."""
    windows, memory, seconds_each = [], [], []
    end = time.monotonic() + seconds
    async with httpx.AsyncClient() as http:
        while time.monotonic() + every_s < end:
            await asyncio.sleep(every_s)
            await asyncio.to_thread(versions.add)
            began = time.monotonic()
            os.kill(pid, signal.SIGHUP)
            while True:
                index = (await http.get(f"{url}/v2/repository/index")).json()
                if [each["version"] for each in index] == [str(versions.last)]:
                    break
                await asyncio.sleep(0.02)
            windows.append((began, max(time.monotonic(), began + 1.0)))
            seconds_each.append(time.monotonic() - began)
            await asyncio.sleep(0.6 * every_s)
            memory.append(resident_bytes(pid) or 0)
    return windows, memory, seconds_each


def percentiles(samples: list[Sample]) -> dict[str, float]:
    """Latencies of those that were answered, milliseconds, and how many there were."""
    spans = [1000 * (s.ended - s.started) for s in samples if s.answer.code is None]
    p50, p99 = np.percentile(spans, [50, 99]) if spans else (0.0, 0.0)
    return {"requests": len(samples), "p50": float(p50), "p99": float(p99)}


def table(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """Latencies with and without a switch, and the memory after each."""
    latency, memory = figures["latency_ms"], figures["memory_after_each"]
    rows: list[tuple[str, ...]] = [("requests", "number", "p50, ms", "p99, ms")]
    names = {
        "alone": "one version all the time",
        "between": "between switches",
        "switch": "in the second of a switch",
    }
    for key, name in names.items():
        each = latency[key]
        rows.append((name, f"{each['requests']}", f"{each['p50']:.1f}", f"{each['p99']:.1f}"))
    failed = ", ".join(f"{code}: {count}" for code, count in figures["failed"].items()) or "none"
    rows.append(("failed", failed, "", ""))
    seconds = figures["switch_seconds"]
    rows.append(
        (f"{figures['switches']} switches, seconds each", f"{np.median(seconds):.2f}", "", "")
    )
    sizes = " ".join(f"{size / MIB:.0f}" for size in memory)
    rows.append(("memory before, MiB", f"{figures['memory_before'] / MIB:.0f}", "", ""))
    rows.append(("memory after each, MiB", sizes, "", ""))
    return rows


if __name__ == "__main__":
    main()
