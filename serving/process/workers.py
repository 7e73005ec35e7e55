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
from collections.abc import Callable, Collection
from functools import partial

from snapensemble.contracts.bundle import BUNDLE_FILE, manifest_sha256
from snapensemble.contracts.cpu import cpu_budget, shares
from snapensemble.contracts.errors import InvalidManifest
from snapensemble.serving.http.auth import tokens_of
from snapensemble.serving.inference.repository import Plan
from snapensemble.serving.process.channel import FromWorker, line_of
from snapensemble.serving.process.metrics_files import MetricsFiles, metrics_files
from snapensemble.serving.process.plans import Plans
from snapensemble.serving.process.repository import Refreshing, may_reload
from snapensemble.serving.process.sockets import Ports, bind_ports, shut
from snapensemble.serving.process.startup import greeting, standard_error
from snapensemble.serving.process.supervisor import Supervisor, Worker, WorkerFailed
from snapensemble.serving.process.watchdog import ended_in_time
from snapensemble.serving.settings import Settings
from snapensemble.serving.shutdown import Shutdown

PATIENCE_S = 0.6  # how much later than their time workers are killed; they end a little earlier
log = logging.getLogger("snapensemble")


def serve_with_workers(
    look: Callable[[], Plan], settings: Settings, announce: Callable[[str], None]
) -> int:
    """Serve with several processes until a signal comes; gives the exit code.

    All of them serve the same: this process looks at the disk, and says what is to be served. What
    is put in the place of a bundle later is refused until it has looked again.

    Args:
        look: looks at the disk for what is to be served.
        settings: those of the server.
        announce: called with the greeting when all workers are ready.

    Raises:
        InvalidManifest: a bundle has no manifest, or one that is not right or not expected.
        InvalidConfig: the port is taken, or nothing can be written.
        WorkerFailed: a worker was killed before it was ready.
    """
    plans = Plans(look)
    tokens = tokens_of(settings)  # those of the start, whatever becomes of the file
    lanes = [settings.threads] * settings.workers if settings.threads else []
    lanes = lanes or shares(cpu_budget(), settings.workers)
    shutdown = Shutdown(
        settings.drain_seconds, shutdown_s=settings.shutdown_timeout_s, second_ends=False
    )
    with bind_ports(settings) as ports, metrics_files() as files:
        text = greeting(settings, plans.now, sum(lanes), ports)

        async def spawn(place: int) -> Worker:
            for message in what_became_of(plans.now):
                log.error("%s", message)
            own = settings.model_copy(update={"threads": lanes[place], "tokens_file": None})
            return await start_worker(place, plans, own, ports, files, tokens)

        def stop_listening(signum: signal.Signals) -> None:
            """Let nobody new connect; the workers close the socket when nobody is left."""
            asyncio.get_running_loop().call_later(shutdown.drain_s(signum), leave_to_workers, ports)

        refreshing = Refreshing(plans.refresh, settings.watch)
        supervisor = Supervisor(
            spawn,
            settings.workers,
            on_end=files.forget_gauges,
            on_signal=shutdown.stop,
            on_stop=stop_listening,
            on_hangup=refreshing.want if may_reload() else None,
            beside=refreshing.run,
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


def what_became_of(plan: Plan) -> list[str]:
    """The messages about bundles that are no longer those that are served."""
    messages = []
    for each in plan.models:
        try:
            found = manifest_sha256(each.directory)
        except InvalidManifest as error:
            became = str(error)
        else:
            if found == each.sha256:
                continue
            became = f"{each.directory / BUNDLE_FILE} has been replaced (sha256 {found[:12]}…)"
        messages.append(
            f"{became}; this server serves {each.name} {each.version} (sha256 "
            f"{each.sha256[:12]}…) and no other: workers that run go on with it, no other can "
            "start. Send SIGHUP to this process, or start the server again, to serve what is "
            "there; or put the former bundle back"
        )
    return messages


async def start_worker(
    place: int,
    plans: Plans,
    settings: Settings,
    ports: Ports,
    files: MetricsFiles,
    tokens: Collection[str],
) -> Worker:
    """Start `worker.main` in a process group of its own, so that Ctrl-C comes through this process.

    The interpreter gets -P, since the current directory may hold a folder or a file of any name.
    """
    descriptors = [listener.fileno() for listener in ports.all]
    read_end, write_end = os.pipe()
    hearing = await FromWorker.on(read_end)
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "snapensemble.serving.process.worker",
            files.directory, *map(str, [place, write_end, *descriptors]),
            stdin=PIPE, stdout=standard_error(), pass_fds=[write_end, files.lock, *descriptors],
            process_group=0,
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(files.directory)},
        )  # fmt: skip
    finally:
        os.close(write_end)
    assert process.stdin is not None
    process.stdin.write(line_of(settings, tokens="\n".join(tokens) or None))
    follower = plans.join(process.stdin.write)
    return Worker(process, partial(plans.is_ready, follower, hearing, process.pid))


def leave_to_workers(ports: Ports) -> None:
    """Shut the port for all and close it here; the workers keep it as long as they need it."""
    shut(ports.clients)
    ports.close()
