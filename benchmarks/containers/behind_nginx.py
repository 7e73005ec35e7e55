"""Two containers behind nginx, of which one is stopped and started again and again under load."""

import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.containers.balancers import nginx
from benchmarks.containers.engine import Container, engine, served, wait_until_serving
from benchmarks.containers.load import Outcome, clients

CLIENTS = 8
DRAIN_SECONDS = 2


@dataclass(frozen=True)
class Soak:
    """What became of the requests, and how often the container was restarted meanwhile."""

    outcome: Outcome
    restarts: int
    seconds: float


def soak(
    image: str, bundle_dir: Path, directory: Path, bodies: Sequence[bytes], *, seconds: float
) -> Soak:
    """Send requests through nginx for so many seconds while the first container comes and goes."""
    port, *servers = free_ports(3)
    flag = f"--env=SNAPENSEMBLE_DRAIN_SECONDS={DRAIN_SECONDS}"
    with ExitStack() as stack:
        first, _ = (
            stack.enter_context(served(image, bundle_dir, flag, port=each)) for each in servers
        )
        url = stack.enter_context(nginx(directory, port, servers))
        started, restarts = time.monotonic(), 0
        with clients(url, bodies, number=CLIENTS) as outcome:
            while time.monotonic() < started + seconds:
                restart(first)
                restarts += 1
        return Soak(outcome, restarts, time.monotonic() - started)


def restart(container: Container) -> None:
    """Stop a container in order, start it, and wait until it serves."""
    assert container.stop() == 0
    since = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    engine("start", container.name)
    wait_until_serving(container.name, since=since)


def free_ports(number: int) -> list[int]:
    """Different ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
