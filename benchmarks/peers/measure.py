"""Runs the servers one after the other and measures each."""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.peers import Peer
from benchmarks.peers.servers import NotMeasured, Running, running
from benchmarks.serving.wrk import run_wrk, write_script
from snapensemble.bench.processes import TICKS
from snapensemble.contracts.metrics import Floats

CONNECTIONS = (1, 8, 32)
WARM_UP_S = 3.0  # at the most connections, so that batchers that learn from the load have learnt
SETTLE_S, IDLE_S = 1.0, 4.0
Round = dict[str, dict[str, Any]]  # figures by name


@dataclass(frozen=True, slots=True)
class Task:
    """A server to measure; `expected_BK` are the probabilities of the first pictures."""

    peer: Peer
    python: Path
    bundle_dir: Path
    expected_BK: Floats


def measure(
    tasks: Sequence[Task],
    pictures: Sequence[bytes],
    rounds: int,
    seconds: float,
    reasons: dict[str, str],
) -> list[Round]:
    """The figures of each round; why a server has none is added to `reasons`.

    A server that fails once is left out of all rounds; its medians would else be of other rounds
    than those of ours.
    """
    found: list[Round] = []
    for turn in range(rounds):
        shift = turn * max(1, len(tasks) // rounds) % max(1, len(tasks))
        figures: Round = {}
        for task in [*tasks[shift:], *tasks[:shift]]:
            name = task.peer.name
            if name in reasons:
                continue
            print(f"round {turn + 1} of {rounds}: {name}", file=sys.stderr)
            try:
                figures[name] = one_server(task, pictures, seconds)
            except NotMeasured as error:
                reasons[name] = str(error)
        found.append(figures)
    return [{name: one for name, one in each.items() if name not in reasons} for each in found]


def one_server(task: Task, pictures: Sequence[bytes], seconds: float) -> dict[str, Any]:
    """Start a server, load it, leave it idle, end it."""
    checked = pictures[: len(task.expected_BK)]
    peer = task.peer
    with (
        running(peer, task.python, task.bundle_dir, checked, task.expected_BK) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        bodies = [peer.body(picture) for picture in pictures]
        script = write_script(Path(folder), bodies, peer.path, peer.headers)
        run_wrk(server.url, script, concurrency=max(CONNECTIONS), seconds=WARM_UP_S)
        loads = {f"c={count}": load(server, script, count, seconds) for count in CONNECTIONS}
        return {"start_s": server.start_s, **loads, **idle(server)}


def load(server: Running, script: Path, count: int, seconds: float) -> dict[str, float]:
    """What wrk measures over so many connections, and what that costs the server's processes.

    `other_cores` is what the rest of the machine did meanwhile, the load generator left out: it
    tells a quiet machine from a busy one.
    """
    began, used, busy, generator = time.monotonic(), server.tree.cpu_s(), busy_s(), children_s()
    found = run_wrk(server.url, script, concurrency=count, seconds=seconds)
    took_s, used = time.monotonic() - began, server.tree.cpu_s() - used
    others_s = busy_s() - busy - used - (children_s() - generator)
    images = found.pop("requests")
    return {
        **found,
        "cpu_ms_per_image": 1000 * used / max(1.0, images),
        "other_cores": max(0.0, others_s / took_s),
    }


def idle(server: Running) -> dict[str, float]:
    """Memory after the load, and cores in use while nobody asks."""
    time.sleep(SETTLE_S)
    began, used = time.monotonic(), server.tree.cpu_s()
    time.sleep(IDLE_S)
    return {
        "idle_cores": (server.tree.cpu_s() - used) / (time.monotonic() - began),
        "memory_mib": server.tree.memory_mib(),
        "processes": len(server.tree.pids()),
    }


def busy_s() -> float:
    """Seconds of processor that the machine has spent on anything."""
    user, nice, system, _, _, irq, softirq, *_ = Path("/proc/stat").read_text().split()[1:]
    return sum(map(int, (user, nice, system, irq, softirq))) / TICKS


def children_s() -> float:
    """Seconds of processor of this process's children that have ended, such as wrk."""
    times = os.times()
    return times.children_user + times.children_system
