"""Does the server do as much as ever when far more is asked than it can do?

    python -m benchmarks.serving.overload DIR [--times 5] [--seconds 60] [--max-wait-ms 1000]

Measures the capacity in a closed loop of 32 clients, and what a lone request takes. Then requests
arrive at random times, `--times` the capacity, whatever becomes of the others; latencies count
from when a request was due. Meanwhile another process polls /health/live. Then 8 clients again.
"""

import argparse
import asyncio
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.machine import save
from benchmarks.serving.bundles import add_arguments, bundle_of, pictures_of
from benchmarks.serving.memory import memory_watched
from benchmarks.serving.probe import probed
from snapensemble.bench.figures import MIB, Row, Usage, row
from snapensemble.bench.http_load import HttpClient, Predictions
from snapensemble.bench.load import Ask, Sample, closed_loop, open_loop, poisson_arrivals
from snapensemble.bench.processes import resident_bytes
from snapensemble.bench.targets import Target, metered
from snapensemble.contracts.cpu import cpu_budget
from snapensemble.server_process import server_process

CALM_SECONDS = 10  # of each closed loop, at most
MEMORY_PERIOD_S = 0.25


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, "overload")
    parser.add_argument("--times", type=float, default=5, help="the measured capacity (5)")
    parser.add_argument("--seconds", type=float, default=60, help="of overload (60)")
    parser.add_argument("--max-wait-ms", type=int, default=1000, help="of the server (1000)")
    args = parser.parse_args()
    allow_many_connections()
    with bundle_of(args) as bundle_dir:
        pictures = pictures_of(args, bundle_dir)
        figures = measure(bundle_dir, pictures.encoded, args)
    figures |= {"pictures": pictures.source, "max_wait_ms": args.max_wait_ms, "times": args.times}
    save(args.name, figures, table(figures))


def allow_many_connections() -> None:
    """Raise this process's limit of open files, since every open request is a connection."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def measure(
    bundle_dir: Path, pictures: Sequence[bytes], args: argparse.Namespace
) -> dict[str, Any]:
    """The figures of each phase."""
    flags = ("--port", "0", "--max-wait-ms", str(args.max_wait_ms))
    calm_s = min(CALM_SECONDS, args.seconds)
    with (
        server_process(bundle_dir, *flags) as (process, url),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        probed(url) as health,
    ):
        client = HttpClient(url)
        ask = Predictions(client, [[picture] for picture in pictures])
        target = Target(way="http", ask=ask, pid=process.pid, is_client=False)

        def clients(count: int) -> tuple[list[Sample], Usage]:
            load = closed_loop(ask, concurrency=count, seconds=calm_s)
            return metered(target, lambda: runner.run(load))

        clients(32)  # warms up
        found = {
            "lone": row("http", *clients(1), concurrency=1),
            "capacity": row("http", *clients(32), concurrency=32),
        }
        memory = [resident_bytes(process.pid) or 0]
        rate = args.times * found["capacity"].requests_per_second
        samples, usage = metered(
            target, lambda: runner.run(overload(ask, rate, args.seconds, process.pid, memory))
        )
        found["overload"] = row("http", samples, usage, rate=rate)
        found["afterwards"] = row("http", *clients(8), concurrency=8)
        after = resident_bytes(process.pid)
        runner.run(client.close())
    during = max(memory)
    return {
        **{name: each.as_json() for name, each in found.items()},
        "health": health,
        "resident_bytes": {"before": memory[0], "during": during, "after": after},
        "goodput": goodput(samples, args.seconds) / found["capacity"].requests_per_second,
        "left_by_client": left(found["overload"]) / left(found["capacity"]),
        "bound_ms": bound_ms(found["lone"], args.max_wait_ms),
    }


async def overload(
    ask: Ask, rate: float, seconds: float, pid: int, memory: list[int]
) -> list[Sample]:
    """The samples of the open loop; the server's memory meanwhile is added to `memory`."""
    async with memory_watched(pid, MEMORY_PERIOD_S) as found:
        samples = await open_loop(ask, poisson_arrivals(rate, seconds))
    memory += [size for _, size in found]
    return samples


def goodput(samples: Sequence[Sample], seconds: float) -> float:
    """Answers per second while requests kept coming."""
    end = min(sample.started for sample in samples) + seconds
    return sum(s.answer.code is None and s.ended <= end for s in samples) / seconds


def left(found: Row) -> float:
    """How many processors the client leaves to the server."""
    return cpu_budget() - (found.client_core_share or 0.0)


def bound_ms(lone: Row, max_wait_ms: float) -> float | None:
    """The longest predicted wait that is accepted plus the median of a lone request, in ms."""
    return None if lone.latency_ms is None else max_wait_ms + lone.latency_ms["p50"]


def table(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row per figure that somebody may want to quote."""
    over, calm = figures["overload"], figures["afterwards"]
    memory, health = figures["resident_bytes"], figures["health"]
    polls = ", ".join(f"{status}: {count:,}" for status, count in health["statuses"].items())
    errors = ", ".join(f"{code} {count:,}" for code, count in over["errors"].items())
    shown = [f"{name} {(size or 0) / MIB:.0f}" for name, size in memory.items()]
    return [
        ("what", "figure"),
        ("capacity, requests/s", f"{figures['capacity']['requests_per_second']:.0f}"),
        ("asked, requests/s", f"{over['rate']:.0f} for {over['seconds']:.0f} s"),
        ("goodput, of the capacity", f"{figures['goodput']:.2f}"),
        ("processors' time that the client left, of the same", f"{figures['left_by_client']:.2f}"),
        ("answered, refused", f"{over['answered']:,} answered; {errors or 'none refused'}"),
        ("p50, p99, max of the answered, ms", latencies(over)),
        ("longest wait accepted + lone request, ms", f"{figures['bound_ms'] or 0:.0f}"),
        ("polls of /health/live", f"{polls}; slowest {health['slowest_ms']:.0f} ms"),
        ("resident memory of the server, MiB", ", ".join(shown)),
        (
            "afterwards, 8 clients",
            f"{calm['answered']:,} answered, {calm['errors'] or 'no'} errors",
        ),
        ("the client used, of a core", f"{over['client_core_share']:.2f}"),
    ]


def latencies(row: dict[str, Any]) -> str:
    """The p50, p99 and maximum as text, or `none`."""
    found = row["latency_ms"]
    return "none" if found is None else ", ".join(f"{found[n]:.0f}" for n in ("p50", "p99", "max"))


if __name__ == "__main__":
    main()
