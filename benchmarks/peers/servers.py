"""Starts a server of `peers`, and does not let it be measured before it answers as it should."""

import contextlib
import os
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from benchmarks.peers.peers import Peer
from benchmarks.peers.process_tree import MARK, ProcessTree
from benchmarks.peers.venvs import ROOT
from snapensemble.contracts.metrics import Floats

START_S = 120.0
TOLERANCE = 1e-5  # of any probability


class NotMeasured(Exception):
    """Why there are no figures of a server."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    url: str
    tree: ProcessTree
    start_s: float  # until its first answer


@contextlib.contextmanager
def running(
    peer: Peer, python: Path, bundle_dir: Path, pictures: Sequence[bytes], expected_BK: Floats
) -> Iterator[Running]:
    """A server on a free port, its answers checked; it ends on leaving, with all its processes.

    Args:
        peer: the server to start.
        python: the interpreter of its environment.
        bundle_dir: the bundle that it serves.
        pictures: the pictures that it is checked with.
        expected_BK: the probabilities of these pictures.

    Raises:
        NotMeasured: the server ended, did not answer in time, or answers otherwise.
    """
    port, mark = free_ports(3), uuid.uuid4().hex
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True)
        )
        log = stack.enter_context((Path(folder) / "log").open("wb"))
        started = time.monotonic()
        root = subprocess.Popen(
            [python, *peer.arguments(bundle_dir.resolve(), port)],
            cwd=folder,
            env=variables(folder, bundle_dir.resolve(), port, mark),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        tree = ProcessTree(root, mark)
        stack.callback(tree.end)
        url = f"http://127.0.0.1:{port}"
        try:
            await_answer(peer, url, pictures[0], root)
            start_s = time.monotonic() - started
            check_answers(peer, url, pictures, expected_BK)
        except NotMeasured as error:
            log.flush()
            raise NotMeasured(f"{error}{reason(Path(folder) / 'log')}") from error
        yield Running(url, tree, start_s)


def reason(log: Path) -> str:
    """The last line of a log that tells of an error, if there is one."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if "Error: " in line]
    return f" ({lines[-1].strip()})" if lines else ""


def variables(folder: str, bundle_dir: Path, port: int, mark: str) -> dict[str, str]:
    """A server's environment: as ours, with what tells it its task and keeps its files together."""
    own = {
        "PEER_BUNDLE": str(bundle_dir),
        "PEER_PORT": str(port),
        MARK: mark,
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": folder,
        "BENTOML_HOME": f"{folder}/bentoml",
    }
    return {**os.environ, **own}


def free_ports(count: int) -> int:
    """A port that is free, and so are those right above it; MLServer wants three."""
    while True:
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            try:
                for port in range(first + 1, first + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except (OSError, OverflowError):
                continue
            return int(first)


def await_answer(peer: Peer, url: str, picture: bytes, root: "subprocess.Popen[bytes]") -> None:
    """Send a picture until it is answered; raise NotMeasured if that takes too long."""
    until, last = time.monotonic() + START_S, "nothing"
    while time.monotonic() < until:
        if root.poll() is not None:
            raise NotMeasured(f"it ended with exit code {root.returncode}")
        try:
            reply = ask(peer, url, picture)
        except httpx.TransportError as error:
            last = type(error).__name__
        else:
            if reply.is_success:
                return
            last = f"status {reply.status_code}"
        time.sleep(0.2)
    raise NotMeasured(f"no answer within {START_S:.0f} s, last {last}")


def check_answers(peer: Peer, url: str, pictures: Sequence[bytes], expected_BK: Floats) -> None:
    """Raise NotMeasured for a server whose answers differ from ours."""
    for picture, expected_K in zip(pictures, expected_BK, strict=True):
        reply = ask(peer, url, picture)
        try:
            found_K = np.asarray(peer.probabilities(reply), np.float64)
        except (ValueError, LookupError, TypeError):
            raise NotMeasured(f"its answer cannot be read: {reply.text[:200]}") from None
        if found_K.shape != expected_K.shape:
            raise NotMeasured(f"it answers shape {found_K.shape}, expected {expected_K.shape}")
        if (difference := float(np.abs(found_K - expected_K).max())) > TOLERANCE:
            raise NotMeasured(f"its probabilities differ by {difference:.1e}")


def ask(peer: Peer, url: str, picture: bytes) -> httpx.Response:
    """The answer to one picture."""
    headers = dict(peer.headers)
    return httpx.post(url + peer.path, content=peer.body(picture), headers=headers, timeout=60)
