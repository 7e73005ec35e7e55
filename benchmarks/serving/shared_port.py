"""How do connections spread over two workers: by one inherited socket, or by SO_REUSEPORT?

    python -m benchmarks.serving.shared_port             # eight repetitions

A worker answers each request, one byte, after 2 ms of work, on uvloop as the server does. For
connections that are opened together the figure is the busier worker's share of the requests: 0.5 is
even, 1 means that the other one was idle. For newcomers, opened one by one beside eight that are
busy, it is the share that goes to the worker with fewer busy ones: 1 is best, 0.5 is chance.
"""

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial

import uvloop

from benchmarks.machine import save

REQUESTS = 10  # per connection, or connections of one request each
WORK_S = 0.002
MODES = ("inherited", "SO_REUSEPORT")


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=8, help="how many (8)")
    parser.add_argument("--work", nargs=2, metavar=("MODE", "ARGUMENT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(*args.work)
        return
    figures = []
    rows: list[tuple[str, ...]] = [("socket", "connections", "share, median", "least", "most")]
    for mode in MODES:
        with two_workers(mode) as port:
            for name, share in QUESTIONS.items():
                shares = [asyncio.run(share(port)) for _ in range(args.repetitions)]
                figures.append({"socket": mode, "connections": name, "shares": shares})
                values = statistics.median(shares), min(shares), max(shares)
                rows.append((mode, name, *(f"{value:.2f}" for value in values)))
    save("shared-port", {"repetitions": args.repetitions, "figures": figures}, rows)


@contextmanager
def two_workers(mode: str) -> Iterator[int]:
    """Run two processes behind one port, and give its number."""
    with bound(0, shared=mode == "SO_REUSEPORT") as listener:
        descriptors = [listener.fileno()] if mode == "inherited" else []
        port = listener.getsockname()[1]
        argument = str(descriptors[0] if descriptors else port)
        command = [sys.executable, "-m", "benchmarks.serving.shared_port", "--work", mode, argument]
        workers = [
            subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=descriptors)
            for _ in range(2)
        ]
        try:
            for worker in workers:
                assert worker.stdout is not None
                worker.stdout.readline()
            yield port
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()


def bound(port: int, *, shared: bool) -> socket.socket:
    """A socket that has its port and does not listen yet."""
    listener = socket.socket()
    option = socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR
    listener.setsockopt(socket.SOL_SOCKET, option, 1)
    listener.bind(("127.0.0.1", port))
    return listener


def work(mode: str, argument: str) -> None:
    """Answer each byte with the id of this process, until killed."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1):
            end = time.perf_counter() + WORK_S
            while time.perf_counter() < end:
                pass
            writer.write(os.getpid().to_bytes(4, "big"))
        writer.close()

    async def serve() -> None:
        inherited = mode == "inherited"
        listener = (
            socket.socket(fileno=int(argument)) if inherited else bound(int(argument), shared=True)
        )
        server = await asyncio.start_server(answer, sock=listener, backlog=2048)
        print("ready", flush=True)
        await server.serve_forever()

    uvloop.run(serve())


async def busier_share(port: int, connections: int, *, kept: bool) -> float:
    """The busier worker's share of requests over so many connections at a time."""
    answered: Counter[bytes] = Counter()

    async def ask(requests: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(requests):
            writer.write(b"x")
            answered[await reader.readexactly(4)] += 1
        writer.close()

    async def client() -> None:
        for requests in [REQUESTS] if kept else [1] * REQUESTS:
            await ask(requests)

    await asyncio.gather(*(client() for _ in range(connections)))
    return max(answered.values()) / answered.total()


async def idler_share(port: int, newcomers: int = 32) -> float:
    """The share of newcomers that goes to the worker with fewer of eight busy connections."""
    busy: Counter[bytes] = Counter()
    came: Counter[bytes] = Counter()
    seen, stop = asyncio.Semaphore(0), asyncio.Event()

    async def keep_busy() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        first = True
        while not stop.is_set():
            writer.write(b"x")
            worker = await reader.readexactly(4)
            busy[worker] += first
            if first:
                seen.release()
            first = False
        writer.close()

    tasks = [asyncio.create_task(keep_busy()) for _ in range(8)]
    for _ in tasks:
        await seen.acquire()
    writers = []
    for _ in range(newcomers):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x")
        came[await reader.readexactly(4)] += 1
        writers.append(writer)
    stop.set()
    await asyncio.gather(*tasks)
    for writer in writers:
        writer.close()
    (busiest, most), *_ = busy.most_common()
    if 2 * most == busy.total():
        return max(came.values()) / newcomers
    return 1 - came[busiest] / newcomers


QUESTIONS: dict[str, Callable[[int], Coroutine[None, None, float]]] = {
    "8 together, kept": partial(busier_share, connections=8, kept=True),
    "32 together, kept": partial(busier_share, connections=32, kept=True),
    "8 together, one request each": partial(busier_share, connections=8, kept=False),
    "32 together, one request each": partial(busier_share, connections=32, kept=False),
    "newcomers beside 8 busy ones": idler_share,
}


if __name__ == "__main__":
    main()
