"""`snapensemble serve --workers N`: processes that share a port and count together.

They share one bound socket, which the parent holds too: a connection that nobody has accepted yet
belongs to no worker, so it outlives any of them. Sessions of ONNX Runtime do not survive a fork,
so each worker is a program of its own.
"""

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from functools import partial
from pathlib import Path

from snapensemble.contracts.bundle import BUNDLE_FILE, BundleManifest, read_bundle
from snapensemble.contracts.cpu import cpu_budget, shares
from snapensemble.contracts.files import sha256_of
from snapensemble.serving.process.metrics_files import MetricsFiles, metrics_files
from snapensemble.serving.process.sockets import Ports, bind_ports, shut
from snapensemble.serving.process.startup import greeting, hearing_ready, standard_error
from snapensemble.serving.process.supervisor import Supervisor, Worker, WorkerFailed
from snapensemble.serving.process.watchdog import ended_in_time
from snapensemble.serving.settings import SECRETS, Settings
from snapensemble.serving.shutdown import Shutdown

PATIENCE_S = 0.6  # how much later than their time workers are killed; they end a little earlier
log = logging.getLogger("snapensemble")


def serve_with_workers(
    bundle_dir: Path, settings: Settings, announce: Callable[[str], None]
) -> int:
    """Serve with several processes until a signal comes; gives the exit code.

    All of them serve the bundle that is there now: one that is put in its place later is refused.

    Args:
        bundle_dir: made by `snapensemble export`.
        settings: those of the server.
        announce: called with the greeting when all workers are ready.

    Raises:
        InvalidManifest: the bundle has no manifest, or one that is not right or not expected.
        InvalidConfig: the port is taken, or nothing can be written.
        WorkerFailed: a worker was killed before it was ready.
    """
    bundle, sha256 = pinned_bundle(bundle_dir, settings.expect_bundle)
    lanes = [settings.threads] * settings.workers if settings.threads else []
    lanes = lanes or shares(cpu_budget(), settings.workers)
    shutdown = Shutdown(
        settings.drain_seconds, shutdown_s=settings.shutdown_timeout_s, second_ends=False
    )
    with bind_ports(settings) as ports, metrics_files() as files:
        text = greeting(settings, bundle, sum(lanes), ports)

        async def spawn(place: int) -> Worker:
            if message := what_became_of(bundle_dir, bundle, sha256):
                log.error("%s", message)
            own = settings.model_copy(update={"threads": lanes[place], "expect_bundle": sha256})
            return await start_worker(place, bundle_dir, own, ports, files)

        def stop_listening(signum: signal.Signals) -> None:
            """Let nobody new connect; the workers close the socket when nobody is left."""
            asyncio.get_running_loop().call_later(shutdown.drain_s(signum), leave_to_workers, ports)

        supervisor = Supervisor(
            spawn,
            settings.workers,
            on_end=files.forget_gauges,
            on_signal=shutdown.stop,
            on_stop=stop_listening,
            patience_s=lambda signum: (
                shutdown.drain_s(signum) + settings.shutdown_timeout_s + PATIENCE_S
            ),
        )
        try:
            with ended_in_time(shutdown, margin_s=PATIENCE_S + 0.05, at_last=supervisor.kill):
                return asyncio.run(supervisor.run(lambda: announce(text)))
        except WorkerFailed as failure:
            if failure.code == 2:  # the worker has said what a user can mend
                return 2
            raise


def pinned_bundle(bundle_dir: Path, expected_sha256: str | None) -> tuple[BundleManifest, str]:
    """The manifest of a bundle, and its SHA-256, which stands for every file in the bundle.

    Raises:
        InvalidManifest: as `read_bundle`; also if it is replaced at this very moment.
    """
    try:
        found = sha256_of((bundle_dir / BUNDLE_FILE).read_bytes())
    except OSError:
        found = ""  # `read_bundle` says what is wrong
    return read_bundle(bundle_dir, expected_sha256 or found or None), expected_sha256 or found


def what_became_of(bundle_dir: Path, bundle: BundleManifest, sha256: str) -> str | None:
    """The message about a bundle that is no longer the one that is served; None if it is."""
    try:
        found = sha256_of((bundle_dir / BUNDLE_FILE).read_bytes())
    except OSError as error:
        became = f"cannot be read any more ({error.strerror or error})"
    else:
        if found == sha256:
            return None
        became = f"has been replaced (sha256 {found[:12]}…)"
    return (
        f"{bundle_dir / BUNDLE_FILE} {became}; this server serves {bundle.name} {bundle.version} "
        f"(sha256 {sha256[:12]}…) and no other: workers that run go on with it, no other can "
        "start. Start the server again to serve what is there, or put the former bundle back"
    )


async def start_worker(
    place: int, bundle_dir: Path, settings: Settings, ports: Ports, files: MetricsFiles
) -> Worker:
    """Start `worker.main` in a process group of its own, so that Ctrl-C comes through this process.

    The interpreter gets -P, since the current directory may hold a folder or a file of any name.
    """
    descriptors = [listener.fileno() for listener in ports.all]
    read_end, write_end = os.pipe()
    is_ready = await hearing_ready(read_end)
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "snapensemble.serving.process.worker",
            bundle_dir, files.directory, *map(str, [place, write_end, *descriptors]),
            stdin=PIPE, stdout=standard_error(), pass_fds=[write_end, files.lock, *descriptors],
            process_group=0,
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(files.directory)},
        )  # fmt: skip
    finally:
        os.close(write_end)
    assert process.stdin is not None
    process.stdin.write(settings.model_dump_json(exclude=set(SECRETS)).encode() + b"\n")
    return Worker(process, partial(is_ready, process.pid))


def leave_to_workers(ports: Ports) -> None:
    """Shut the port for all and close it here; the workers keep it as long as they need it."""
    shut(ports.clients)
    ports.close()
