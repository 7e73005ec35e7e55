"""`snapensemble serve`: a bundle directory -> a server on a port."""

import argparse
import contextlib
import socket
import warnings
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from contracts.errors import InvalidConfig
from serving.logs import configure_logging
from serving.settings import Settings
from serving.tokens import read_tokens

SECRETS = ("tokens",)  # no flags: everybody on the machine can read a command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag per setting; variables SNAPENSEMBLE_* count where a flag is not given."""
    parser.add_argument(
        "bundle_dir", type=Path, metavar="BUNDLE_DIR", help="made by snapensemble export"
    )
    for name, field in Settings.model_fields.items():
        if name in SECRETS:
            continue
        flag = f"--{name.replace('_', '-')}"
        shown = "" if field.default is None else f" ({field.default})"
        text = f"{field.description}{shown}"
        if field.annotation is bool:
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
            )
        else:
            parser.add_argument(
                flag, default=argparse.SUPPRESS, help=text, metavar=name.rpartition("_")[2].upper()
            )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; 0 after an orderly end."""
    flags = vars(args)
    bundle_dir: Path = flags.pop("bundle_dir")
    settings = build_settings(flags)
    read_tokens(settings)  # what is wrong with them is said before members are loaded
    configure_logging(settings.log_format)
    # Pillow warns of odd metadata in pictures; a client must not be able to fill the log with it.
    warnings.filterwarnings("ignore", module="PIL")

    from serving.engine import load_engine
    from serving.life import Life
    from serving.metrics import Metrics
    from serving.metrics_port import serve_metrics
    from serving.server import make_server

    metrics = Metrics()
    engine = load_engine(
        bundle_dir,
        settings.limits(),
        on_batch=metrics.batch,
        max_accuracy_drop=settings.max_accuracy_drop,
    )
    engine.check_mode(settings.mode)  # before the port opens
    with (
        engine,
        open_port(settings.host, settings.port) as listener,
        contextlib.ExitStack() as stack,
    ):
        server = make_server(settings, engine, metrics, Life(settings.drain_seconds))
        print(
            f"Serving {settings.name or engine.bundle.name} {engine.bundle.version} "
            f"(members: {len(engine.bundle.members)}, lanes: {engine.lanes.threads}) "
            f"on {url_of(listener)}",
            flush=True,
        )
        if settings.metrics_port is not None:
            own = stack.enter_context(
                open_port(settings.host, settings.metrics_port, flag="--metrics-port")
            )
            stack.enter_context(serve_metrics(own, engine, metrics))
            print(f"Metrics on {url_of(own)}/metrics", flush=True)
        server.run(sockets=[listener])
    return 0


def build_settings(flags: dict[str, object]) -> Settings:
    """Flags over variables over defaults.

    Raises:
        InvalidConfig: a value is out of bounds; names the setting.
    """
    try:
        return Settings(**flags)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = "; ".join(map(_explain, error.errors()))
        raise InvalidConfig(problems) from error


def _explain(error: ErrorDetails) -> str:
    if not error["loc"]:  # two settings that do not fit together
        return error["msg"]
    name = str(error["loc"][0])
    if name in SECRETS:
        return f"SNAPENSEMBLE_{name.upper()}: {error['msg']}"
    return (
        f"--{name.replace('_', '-')} or SNAPENSEMBLE_{name.upper()}: {error['msg']}, "
        f"got {error['input']!r}"
    )


def url_of(listener: socket.socket) -> str:
    """Where a listening socket can be reached."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


def open_port(host: str, port: int, *, flag: str = "--port") -> socket.socket:
    """A listening socket.

    Args:
        host: the address.
        port: 0 takes a free one.
        flag: which sets the port, for the message.

    Raises:
        InvalidConfig: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InvalidConfig(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another {flag} "
            "(0 takes a free one) or --host"
        ) from error
