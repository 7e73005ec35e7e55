"""Does the server's memory stay flat under a long load of everything?

    python -m benchmarks.serving.soak DIR [--minutes 30] [--share 0.4] [--hostile 0.1] [-- FLAGS]

Pictures of many sizes and formats, forms with several, damaged ones, and clients that leave arrive
at random times, at a share of the measured capacity for them. A share of the clients means harm
(`benchmarks.serving.hostile`). The resident memory of the server and its children is read every
five seconds; in the end the server is asked what its requests still hold.
"""

import argparse
import asyncio
import io
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvloop
from PIL import Image

from benchmarks.machine import save
from benchmarks.serving.bundles import add_arguments, bundle_of
from benchmarks.serving.hostile import act
from benchmarks.serving.memory import memory_watched
from snapensemble.bench.figures import MIB, Usage, row
from snapensemble.bench.http_load import HttpClient, Predictions
from snapensemble.bench.load import Answer, Ask, Sample, closed_loop, open_loop, poisson_arrivals
from snapensemble.server_process import server_process

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SIDES = (8, 32, 100, 224, 500, 1200)  # pixels
GROUPS = 120  # requests that differ
PERIOD_S = 5.0
LEAVES_EVERY = 50  # one in so many clients leaves
PATIENCE_S = 0.004  # of those that leave
CAPACITY_S = 15.0  # to measure it, at most


def main() -> None:
    """Load, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, "soak")
    parser.add_argument("--minutes", type=float, default=30, help="of load (30)")
    parser.add_argument("--share", type=float, default=0.4, help="of the capacity (0.4)")
    parser.add_argument("--hostile", type=float, default=0.0, help="share of clients (0)")
    parser.add_argument("flags", nargs="*", help="of `snapensemble serve`, after --")
    args = parser.parse_args()
    with bundle_of(args) as bundle_dir:
        figures = measure(bundle_dir, args)
    save(args.name, figures, table(figures))


def measure(bundle_dir: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The capacity, then the long load and the memory meanwhile."""
    groups = make_groups()
    with (
        server_process(bundle_dir, "--port", "0", *args.flags) as (process, url),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        client = HttpClient(url)
        ask = Predictions(client, groups)
        calm_s = min(CAPACITY_S, args.minutes * 60)
        measured = runner.run(closed_loop(ask, concurrency=8, seconds=calm_s))
        rate = args.share * len(measured) / calm_s
        hostile = Hostile(client.host, client.port, args.hostile)
        mixed = hostile.among(leaving(ask))
        samples, memory = runner.run(load(mixed, rate, args.minutes * 60, process.pid))
        runner.run(client.close())
        left = left_behind(url)
    found = row("http", samples, Usage(), rate=rate)
    codes = Counter(sample.answer.code or "answered" for sample in samples)
    return {
        "flags": args.flags,
        "minutes": args.minutes,
        "requests_per_second": rate,
        "answers": dict(codes),
        "hostile": dict(sorted(hostile.came_back.items())),
        "left_behind": left,
        "latency_ms": found.latency_ms,
        "memory": memory,
        "growth_mib_per_hour": growth_mib_per_hour(memory),
    }


async def load(
    ask: Ask, rate: float, seconds: float, pid: int
) -> tuple[list[Sample], list[tuple[float, int]]]:
    """The samples of the open loop, and the minutes and bytes of the server's memory meanwhile."""
    async with memory_watched(pid, PERIOD_S) as memory:
        samples = await open_loop(ask, poisson_arrivals(rate, seconds))
    return samples, [(seconds / 60, size) for seconds, size in memory]


def leaving(ask: Ask) -> Ask:
    """Let the client of every fiftieth request leave before its answer."""

    async def ask_or_leave(number: int) -> Answer:
        if number % LEAVES_EVERY:
            return await ask(number)
        try:
            return await asyncio.wait_for(ask(number), PATIENCE_S)
        except TimeoutError:
            return Answer("left")

    return ask_or_leave


class Hostile:
    """Clients that mean harm, and what came back for each kind."""

    def __init__(self, host: str, port: int, share: float) -> None:
        self.came_back: Counter[str] = Counter()
        self._address = host, port
        self._share = share
        self._rng = random.Random(1)  # noqa: S311 # not a secret

    def among(self, ask: Ask) -> Ask:
        """Let hostile clients take the place of a share of the requests."""

        async def ask_or_harm(number: int) -> Answer:
            if self._rng.random() >= self._share:
                return await ask(number)
            self.came_back[await act(*self._address, number)] += 1
            return Answer("hostile")

        return ask_or_harm


def left_behind(url: str) -> dict[str, float]:
    """What requests still hold when no client asks any more: zero everywhere, after a moment."""
    names = (
        "snapensemble_held_bytes",
        "snapensemble_requests_under_way",
        "snapensemble_queue_images",
    )
    found: dict[str, float] = {}
    for _ in range(60):
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        found = {
            name: float(value)
            for name, value in (line.rsplit(maxsplit=1) for line in lines)
            if name in names
        }
        if not any(found.values()):
            break
        time.sleep(1)
    return found


def make_groups() -> list[list[bytes]]:
    """Pictures of each request: mostly one, sometimes up to eight, some of them cut short."""
    rng = random.Random(0)  # noqa: S311 # not a secret
    groups = []
    for _ in range(GROUPS):
        count = rng.choice((1, 1, 1, 1, 1, 1, 2, 8))
        groups.append([make_picture(rng) for _ in range(count)])
        if rng.random() < 0.1:
            groups[-1][-1] = groups[-1][-1][: rng.randrange(1, 400)]
    return groups


def make_picture(rng: random.Random) -> bytes:
    """A smooth picture with some noise, of a random shape, mode and format."""
    height, width = rng.choice(SIDES), rng.choice(SIDES)
    random_HW = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (4, 4), np.uint8)
    picture = Image.fromarray(random_HW).resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.convert(rng.choice(("L", "RGB"))).save(file, rng.choice(FORMATS))
    return file.getvalue()


def growth_mib_per_hour(memory: list[tuple[float, int]]) -> float:
    """The slope of a line through the second half of the memory's figures."""
    minutes, sizes = np.array(memory[len(memory) // 2 :], float).T
    return float(np.polyfit(minutes / 60, sizes / MIB, 1)[0]) if len(minutes) > 1 else 0.0


def table(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """What came back, and the memory at each tenth of the time."""
    memory = figures["memory"]
    tenths = [memory[int(tenth * (len(memory) - 1) / 10)] for tenth in range(11)]
    answers = ", ".join(f"{code}: {count:,}" for code, count in sorted(figures["answers"].items()))
    latency = figures["latency_ms"] or {"p50": 0, "p99": 0}
    rows = [
        ("what", "figure"),
        ("requests", f"{figures['requests_per_second']:.0f}/s for {figures['minutes']:g} min"),
        ("answers", answers),
        *hostile_rows(figures),
        ("p50, p99 of the answered, ms", f"{latency['p50']:.0f}, {latency['p99']:.0f}"),
    ]
    rows += [(f"memory at {minutes:.0f} min, MiB", f"{size / MIB:.0f}") for minutes, size in tenths]
    rows.append(("growth in the second half, MiB/h", f"{figures['growth_mib_per_hour']:.1f}"))
    return rows


def hostile_rows(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """What came back for clients that mean harm, and what was left of all in the end."""
    came_back = ", ".join(f"{kind} ({count})" for kind, count in figures["hostile"].items())
    left = ", ".join(f"{name}: {value:g}" for name, value in figures["left_behind"].items())
    return [("hostile clients got", came_back or "none"), ("held in the end", left)]


if __name__ == "__main__":
    main()
