"""`snapensemble serve --workers N`: processes that share a port and count together.

They share one bound socket, which this process holds too: a connection that nobody has accepted
yet belongs to no worker, so it outlives any of them. Sessions of ONNX Runtime do not survive a
fork, so each worker is a program of its own.
"""

import asyncio
import contextlib
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from contracts.bundle import read_bundle
from contracts.cpu import cpu_budget, shares
from contracts.errors import InvalidConfig
from serving.cli import SECRETS, greeting
from serving.crew import Crew, WorkerFailed
from serving.ports import Ports, bind_ports
from serving.settings import Settings

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 # mkdtemp makes a private directory in it


def serve_with_workers(
    bundle_dir: Path, settings: Settings, announce: Callable[[str], None]
) -> int:
    """Serve with several processes until a signal comes; gives the exit code.

    Args:
        bundle_dir: made by `snapensemble export`.
        settings: of the server.
        announce: told the greeting when all are ready.

    Raises:
        InvalidManifest: the bundle has no manifest, or one that is not right or not expected.
        InvalidConfig: the port is taken, or nothing can be written.
        WorkerFailed: a worker was killed before it was ready.
    """
    bundle = read_bundle(bundle_dir, settings.expect_bundle)
    lanes = [settings.threads] * settings.workers if settings.threads else []
    lanes = lanes or shares(cpu_budget(), settings.workers)
    with bind_ports(settings) as ports, metrics_directory() as metrics_dir:
        text = greeting(settings, bundle, sum(lanes), ports)

        async def spawn(place: int) -> Process:
            own = settings.model_copy(update={"threads": lanes[place]})
            return await start_worker(bundle_dir, own, ports, metrics_dir)

        async def run() -> int:
            crew = Crew(
                spawn,
                settings.workers,
                on_end=lambda pid: forget_gauges(pid, metrics_dir),
                on_stop=ports.close,  # the workers have them still, as long as they need them
            )
            return await crew.run(lambda: announce(text))

        try:
            return asyncio.run(run())
        except WorkerFailed as failure:
            if failure.code == 2:  # the worker has said what a user can mend
                return 2
            raise


async def start_worker(
    bundle_dir: Path, settings: Settings, ports: Ports, metrics_dir: Path
) -> Process:
    """Start `serving.worker`, in a process group of its own: Ctrl-C comes through this process."""
    descriptors = [listener.fileno() for listener in ports.all]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "serving.worker", bundle_dir, metrics_dir, *map(str, descriptors),
        stdin=PIPE, stdout=PIPE, pass_fds=descriptors, process_group=0,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(metrics_dir)},
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(settings.model_dump_json(exclude=set(SECRETS)).encode() + b"\n")
    return process


def forget_gauges(pid: int, metrics_dir: Path) -> None:
    """What a worker that has ended counted stays, what it was doing does not."""
    mark_process_dead(pid, str(metrics_dir))  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def metrics_directory() -> Iterator[Path]:
    """Where the workers count together: private, in memory if possible, removed at the end.

    Raises:
        InvalidConfig: there is no place that can be written.
    """
    is_usable = SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK)
    try:
        directory = tempfile.TemporaryDirectory(
            prefix="snapensemble-", dir=SHARED_MEMORY if is_usable else None
        )
    except OSError as error:
        raise InvalidConfig(
            f"--workers needs a directory for what the workers count: {error}; "
            "make /dev/shm or TMPDIR writable, or use --workers 1"
        ) from error
    with directory as name:
        yield Path(name)
