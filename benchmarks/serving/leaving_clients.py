"""Do clients that leave early hurt those that come after them?

    python -m benchmarks.serving.leaving_clients DIR [--clients 10000]

Each client connects, sends some of a request and leaves: at once, inside the head, inside the
body, or after all of it and a moment, at most as long as a lone request takes. Half of them reset
the connection. Before and after them, 8 clients ask in a closed loop.
"""

import argparse
import asyncio
import random
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import uvloop

from benchmarks.machine import save
from benchmarks.serving.bundles import add_arguments, bundle_of, pictures_of
from snapensemble.bench.figures import MIB, Row, Usage, row
from snapensemble.bench.http_load import HttpClient, Predictions, body_of
from snapensemble.bench.load import closed_loop
from snapensemble.bench.processes import resident_bytes
from snapensemble.server_process import server_process

AT_ONCE = 64  # leaving clients
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: closing sends RST and not FIN


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, "leaving-clients")
    parser.add_argument("--clients", type=int, default=10_000, help="that leave (10000)")
    parser.add_argument("--seconds", type=float, default=10, help="of each normal load (10)")
    args = parser.parse_args()
    with bundle_of(args) as bundle_dir:
        pictures = pictures_of(args, bundle_dir)
        figures = measure(bundle_dir, pictures.encoded, args)
    save(
        args.name, {"clients": args.clients, "pictures": pictures.source, **figures}, table(figures)
    )


def measure(
    bundle_dir: Path, pictures: Sequence[bytes], args: argparse.Namespace
) -> dict[str, Any]:
    """Normal load, the clients that leave, normal load again."""
    with (
        server_process(bundle_dir, "--port", "0") as (process, url),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        client = HttpClient(url)
        ask = Predictions(client, [[picture] for picture in pictures])

        def normal_load() -> Row:
            load = closed_loop(ask, concurrency=8, seconds=args.seconds)
            return row("http", runner.run(load), Usage(), concurrency=8)

        before = normal_load()
        memory = {"before": resident_bytes(process.pid)}
        assert before.latency_ms is not None
        runner.run(leave(client, pictures, args.clients, before.latency_ms["p50"] / 8000))
        memory["when they had left"] = resident_bytes(process.pid)
        after = normal_load()
        memory["after"] = resident_bytes(process.pid)
        metrics = httpx.get(f"{url}/metrics").text
        runner.run(client.close())
    return {
        "before": before.as_json(),
        "after": after.as_json(),
        "resident_bytes": memory,
        "metrics": [
            line
            for line in metrics.splitlines()
            if line.startswith(("snapensemble_departed", "snapensemble_queue"))
        ],
    }


async def leave(client: HttpClient, pictures: Sequence[bytes], count: int, lone_s: float) -> None:
    """`count` clients that leave early, `AT_ONCE` at a time."""
    chance = random.Random(0)  # noqa: S311 # not a secret
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        request = client.request("POST", "/predict", *body_of([pictures[number % len(pictures)]]))
        head = request.index(b"\r\n\r\n") + 4
        part = (0, head // 2, head + (len(request) - head) // 2, len(request), len(request))
        async with places:
            _, writer = await asyncio.open_connection(client.host, client.port)
            if number % 2:
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.write(request[: part[number % len(part)]])
            await asyncio.sleep(chance.uniform(0, lone_s))
            writer.transport.abort()

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))


def table(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """What normal clients saw, and the server's memory."""
    rows: list[tuple[str, ...]] = [("8 clients", "requests", "answered", "requests/s", "p99 ms")]
    for name in ("before", "after"):
        load = figures[name]
        rows.append(
            (
                f"{name} the clients that left",
                f"{load['requests']:,}",
                f"{load['answered'] / load['requests']:.2%}",
                f"{load['requests_per_second']:.0f}",
                f"{load['latency_ms']['p99']:.1f}",
            )
        )
    sizes = figures["resident_bytes"].items()
    memory = ", ".join(f"{name} {(size or 0) / MIB:.0f}" for name, size in sizes)
    rows.append(("resident memory, MiB", memory, "", "", ""))
    return rows


if __name__ == "__main__":
    main()
