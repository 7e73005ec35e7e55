"""What does an image cost, and how do lanes, workers and servers behind nginx add up?

    python -m benchmarks.serving.scaling DIR [--int8-bundle DIR] [--image IMAGE]

One picture per request over 32 connections (wrk on the same machine). Servers with one lane are
bound to the first processor, so that a second one is what is added; wrk has to share it. Behind
nginx stand two servers of one lane, or with --image two containers of one processor each. All ways
take turns, round by round; ratios are those of one round.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.containers.balancers import nginx
from benchmarks.containers.behind_nginx import free_ports
from benchmarks.containers.engine import engine, served
from benchmarks.machine import save, spread
from benchmarks.serving.bundles import add_arguments, bundle_of, pictures_of
from benchmarks.serving.wrk import find_wrk, run_wrk, write_script
from snapensemble.bench.processes import cpu_seconds
from snapensemble.server_process import server_process

CONNECTIONS = 32
MILLION = 1_000_000


@dataclass(frozen=True)
class Setup:
    """A way to serve, and the processes that do it."""

    url: str
    pids: list[int]

    def used_s(self) -> float:
        """Processor seconds that the processes have used so far."""
        return sum(cpu_seconds(pid) or 0.0 for pid in self.pids)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, "scaling")
    parser.add_argument("--int8-bundle", type=Path, metavar="DIR", help="to serve as a cascade")
    parser.add_argument("--image", help="serving image: containers behind nginx, not processes")
    parser.add_argument("--rounds", type=int, default=5, help="after one that warms up (5)")
    parser.add_argument("--seconds", type=float, default=5, help="of one turn (5)")
    args = parser.parse_args()
    find_wrk()
    with bundle_of(args) as bundle_dir, ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.chmod(0o755)
        script = write_script(work, pictures_of(args, bundle_dir).encoded, "/predict")
        setups = {
            name: stack.enter_context(setup)
            for name, setup in ways(bundle_dir, args.int8_bundle, args.image, work).items()
        }
        rounds = []
        for turn in range(args.rounds + 1):
            found = {name: measure(setup, script, args.seconds) for name, setup in setups.items()}
            if turn:  # the first turn warms up
                rounds.append(found)
            print(f"round {turn} of {args.rounds}", file=sys.stderr)
    save(args.name, {"seconds": args.seconds, "rounds": rounds}, table(rounds))


def ways(
    bundle_dir: Path, int8_dir: Path | None, image: str | None, work: Path
) -> Mapping[str, contextlib.AbstractContextManager[Setup]]:
    """Each way to serve by its name; the first is what the others are compared with."""
    found = {
        "1 lane": on_one_processor(bundle_dir),
        "2 lanes": process(bundle_dir),
        "2 workers": process(bundle_dir, "--workers", "2"),
        "2 servers behind nginx": behind_nginx(bundle_dir, image, work),
    }
    if int8_dir is not None:
        found["int8 cascade, 1 lane"] = on_one_processor(int8_dir, "--mode", "cascade")
        found["int8 cascade, 2 workers"] = process(int8_dir, "--mode", "cascade", "--workers", "2")
    return found


@contextlib.contextmanager
def process(bundle_dir: Path, *flags: str) -> Iterator[Setup]:
    """A server on a free port."""
    with server_process(bundle_dir, "--port", "0", *flags) as (server, url):
        yield Setup(url, [server.pid])


@contextlib.contextmanager
def on_one_processor(bundle_dir: Path, *flags: str) -> Iterator[Setup]:
    """A server on the first processor of those that this process may use."""
    all_processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(all_processors)})
    with contextlib.ExitStack() as stack:
        try:
            setup = stack.enter_context(process(bundle_dir, *flags))
        finally:
            os.sched_setaffinity(0, all_processors)
        yield setup


@contextlib.contextmanager
def behind_nginx(bundle_dir: Path, image: str | None, work: Path) -> Iterator[Setup]:
    """Two servers with a lane each, and nginx in front of them."""
    port, *servers = free_ports(3)
    with ExitStack() as stack:
        pids = []
        for each in servers:
            if image is None:
                flags = ("--port", str(each), "--threads", "1")
                server, _ = stack.enter_context(server_process(bundle_dir, *flags))
                pids.append(server.pid)
            else:
                container = stack.enter_context(served(image, bundle_dir, port=each))
                pids.append(int(engine("inspect", "-f", "{{.State.Pid}}", container.name)))
        yield Setup(stack.enter_context(nginx(work, port, servers)), pids)


def measure(setup: Setup, script: Path, seconds: float) -> dict[str, float]:
    """Rate, latency and processor time of one turn."""
    before = setup.used_s()
    found = run_wrk(setup.url, script, concurrency=CONNECTIONS, seconds=seconds)
    used_s = setup.used_s() - before
    return {**found, "cpu_ms": 1000 * used_s / found["requests"]}


def table(rounds: list[dict[str, dict[str, float]]]) -> list[tuple[str, ...]]:
    """A row per way."""
    first, *_ = rounds[0]
    rows: list[tuple[str, ...]] = [
        (
            "way", "images/s", f"times {first}", "p99 ms", "processor time per image, ms",
            "core hours per million images", "failed",
        )
    ]  # fmt: skip
    rate = partial(column, rounds, key="requests_per_second")
    for name in rounds[0]:
        ratios = [one / base for one, base in zip(rate(name), rate(first), strict=True)]
        cpu_ms = column(rounds, name, "cpu_ms")
        rows.append(
            (
                name,
                spread(rate(name), ".0f"),
                spread(ratios, ".2f"),
                spread(column(rounds, name, "p99_ms"), ".0f"),
                spread(cpu_ms, ".2f"),
                spread([each / 1000 * MILLION / 3600 for each in cpu_ms], ".2f"),
                f"{sum(column(rounds, name, 'failed')):.0f}",
            )
        )
    return rows


def column(rounds: list[dict[str, dict[str, float]]], name: str, key: str) -> list[float]:
    """One figure of one way, round by round."""
    return [each[name][key] for each in rounds]


if __name__ == "__main__":
    main()
