"""One process that serves: alone, or as a worker of several.

A worker gets all that it needs from its parent. Its arguments are the directory of the shared
counts, its place there, the descriptor of the pipe on which it speaks, and those of the bound
sockets; `channel` says what its input has. It ends in order when its input ends, since its parent
has died then.
"""

import atexit
import contextlib
import gc
import json
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

from snapensemble.contracts.process import exit_code, raise_on_signals
from snapensemble.serving.inference.repository import Plan
from snapensemble.serving.process.channel import Parent, plan_of
from snapensemble.serving.process.metrics_files import count_as
from snapensemble.serving.process.metrics_port import serve_metrics
from snapensemble.serving.process.repository import assembled
from snapensemble.serving.process.server import make_server
from snapensemble.serving.process.sockets import Ports, listening, shut
from snapensemble.serving.process.startup import prepare_process
from snapensemble.serving.process.watchdog import ended_in_time
from snapensemble.serving.settings import Settings
from snapensemble.serving.shutdown import Shutdown
from snapensemble.serving.telemetry.metrics import Metrics
from snapensemble.serving.telemetry.tracing import exported_traces

TRACES_S = 0.3  # for the last traces, where requests have taken all the time that there was


def serve(
    plan: Plan,
    settings: Settings,
    listen: Callable[[], Ports],
    announce: Callable[[int, Ports], None],
    shutdown: Shutdown,
    metrics: Metrics,
    *,
    look: Callable[[], Plan],
    on_news: Callable[[Callable[[], None]], object],
    parent: Parent | None = None,
) -> None:
    """Serve until a signal comes, then end in order, and in any case in time.

    Args:
        plan: what to serve.
        settings: those of the server.
        listen: opens the ports; called when the members are warm.
        announce: called with the number of lanes when connections are accepted.
        shutdown: tells when to stop.
        metrics: counts what happens.
        look: says what is to be served, when there are news and from time to time.
        on_news: gets what is to be called, on any thread, when there may be something new to serve.
        parent: of this process, if it is one of several workers.
    """
    with (
        ended_in_time(shutdown),
        exported_traces(lambda: shutdown.left_s + TRACES_S) as traces,
        assembled(
            plan, settings, look, metrics=metrics, shutdown=shutdown, traces=traces, parent=parent
        ) as (app, service, repository, refreshing),
        listen() as ports,
        contextlib.ExitStack() as stack,
    ):
        server = make_server(app, repository.memory, shutdown, traces, [refreshing.run])
        on_news(refreshing.want)
        if ports.metrics is not None:
            stack.enter_context(serve_metrics(ports.metrics, service))
        gc.collect()
        gc.freeze()  # these objects stay: to look through them took a twentieth of the time
        server.when_started = partial(announce, repository.lanes, ports)
        server.run(sockets=[ports.clients])


def main() -> int:
    """Serve as a worker."""
    raise_on_signals()
    return exit_code("snapensemble serve", _work)


def _work() -> int:
    metrics_dir, place, pipe, *descriptors = sys.argv[1:]
    # Unbuffered: a thread that waits with the lock of a buffer would abort the interpreter's end.
    lines = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 # it ends with the process
    settings = Settings(**json.loads(lines.readline()))
    parent = Parent(plan_of(lines.readline()), int(pipe))
    first = parent.look()  # what comes later may be bad, and then changes nothing
    prepare_process(settings)
    threading.Thread(
        target=_hear_parent, args=(lines, parent, metrics_dir, int(descriptors[0])), daemon=True
    ).start()
    count_as(int(place))

    def listen() -> Ports:
        return listening(Ports(*(socket.socket(fileno=int(each)) for each in descriptors)))

    # The parent decides what a second signal means.
    shutdown = Shutdown(
        settings.drain_seconds, shutdown_s=settings.shutdown_timeout_s, second_ends=False
    )
    serve(
        first,
        settings.model_copy(update={"watch": None}),  # the parent looks at the disk
        listen,
        announce=lambda *_: parent.say_ready(),
        shutdown=shutdown,
        metrics=Metrics(Path(metrics_dir)),
        look=parent.look,
        on_news=parent.told_to,
        parent=parent,
    )
    return 0


def _hear_parent(lines: IO[bytes], parent: Parent, metrics_dir: str, clients: int) -> None:
    """Take up what the parent says, one line each, until it has died."""
    while line := lines.readline():
        parent.hear(line)
    with (
        contextlib.suppress(OSError),  # this worker may have closed it already
        socket.socket(fileno=os.dup(clients)) as listener,
    ):
        shut(listener)  # for all workers, as the parent would have done
    atexit.register(shutil.rmtree, metrics_dir, ignore_errors=True)  # nobody else will do it
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
