"""One process that serves: alone, or as a worker of several.

A worker gets all that it needs from its parent. Its arguments are the bundle, the directory of the
shared counts, its place there, the descriptor of the pipe on which it says that it is ready, and
those of the bound sockets. The settings are the first line of its input; secrets are in its
environment. It ends in order when its input ends, since its parent has died then.
"""

import atexit
import contextlib
import gc
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pydantic_core import from_json

from snapensemble.contracts.process import exit_code, raise_on_signals
from snapensemble.serving.inference.engine import Engine, load_engine
from snapensemble.serving.process.metrics_files import count_as
from snapensemble.serving.process.metrics_port import serve_metrics
from snapensemble.serving.process.server import make_server
from snapensemble.serving.process.sockets import Ports, listening, shut
from snapensemble.serving.process.startup import prepare_process, say_ready
from snapensemble.serving.process.watchdog import ended_in_time
from snapensemble.serving.settings import Settings
from snapensemble.serving.shutdown import Shutdown
from snapensemble.serving.telemetry.metrics import Metrics
from snapensemble.serving.telemetry.tracing import exported_traces

TRACES_S = 0.3  # for the last traces, where requests have taken all the time that there was


def serve(
    bundle_dir: Path,
    settings: Settings,
    listen: Callable[[], Ports],
    announce: Callable[[Engine, Ports], None],
    shutdown: Shutdown,
    metrics: Metrics,
) -> None:
    """Serve until a signal comes, then end in order, and in any case in time.

    Args:
        bundle_dir: made by `snapensemble export`.
        settings: those of the server.
        listen: opens the ports; called when the members are warm.
        announce: called when connections are accepted.
        shutdown: tells when to stop.
        metrics: counts what happens.
    """
    with ended_in_time(shutdown):
        engine = load_engine(
            bundle_dir,
            settings.limits(),
            on_batch=metrics.batch,
            on_decode=metrics.decoded,
            max_accuracy_drop=settings.max_accuracy_drop,
            expected_sha256=settings.expect_bundle,
        )
        engine.check_mode(settings.mode)  # before the port opens
        with (
            exported_traces(lambda: shutdown.left_s + TRACES_S) as traces,
            engine,
            listen() as ports,
            contextlib.ExitStack() as stack,
        ):
            server = make_server(settings, engine, metrics, shutdown, traces)
            if ports.metrics is not None:
                stack.enter_context(serve_metrics(ports.metrics, server.service))
            gc.collect()
            gc.freeze()  # these objects stay: looking through them took a twentieth of the time
            server.when_started = partial(announce, engine, ports)
            server.run(sockets=[ports.clients])


def main() -> int:
    """Serve as a worker."""
    raise_on_signals()
    return exit_code("snapensemble serve", _work)


def _work() -> int:
    bundle_dir, metrics_dir, place, ready_pipe, *descriptors = sys.argv[1:]
    settings = Settings(**from_json(sys.stdin.buffer.readline()))
    prepare_process(settings)
    threading.Thread(
        target=_end_with_parent, args=(metrics_dir, int(descriptors[0])), daemon=True
    ).start()
    count_as(int(place))

    def listen() -> Ports:
        return listening(Ports(*(socket.socket(fileno=int(each)) for each in descriptors)))

    # The parent decides what a second signal means.
    shutdown = Shutdown(
        settings.drain_seconds, shutdown_s=settings.shutdown_timeout_s, second_ends=False
    )
    serve(
        Path(bundle_dir),
        settings,
        listen,
        announce=lambda *_: say_ready(int(ready_pipe)),
        shutdown=shutdown,
        metrics=Metrics(Path(metrics_dir)),
    )
    return 0


def _end_with_parent(metrics_dir: str, clients: int) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    with (
        contextlib.suppress(OSError),  # this worker may have closed it already
        socket.socket(fileno=os.dup(clients)) as listener,
    ):
        shut(listener)  # for all workers, as the parent would have done
    atexit.register(shutil.rmtree, metrics_dir, ignore_errors=True)  # nobody else will do it
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
