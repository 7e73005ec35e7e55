"""`snapensemble serve`: a bundle, or a directory of models -> a server on a port."""

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.options import add_options, build, flag
from snapensemble.serving.inference.repository import Plan, plan
from snapensemble.serving.platforms import (
    HEALTH_ROUTE,
    PREDICT_ROUTE,
    SAGEMAKER_PORT,
    bundle_place,
    check_ports,
    is_word_of_sagemaker,
    port_variable,
    vertex_route,
)
from snapensemble.serving.process.descriptors import make_room_for_connections
from snapensemble.serving.process.grpc_port import grpc_port_taken
from snapensemble.serving.process.sockets import bind_ports, listening
from snapensemble.serving.process.startup import greeting, prepare_process
from snapensemble.serving.settings import SECRETS, Settings, check_environment, variable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag per setting; variables SNAPENSEMBLE_* count where a flag is not given."""
    parser.add_argument(
        "bundle_dir",
        type=Path,
        nargs="?",
        metavar="BUNDLE_DIR",
        help="made by snapensemble export, or a directory of models: NAME/ or NAME/VERSION/; where "
        "a platform has put it if not given",
    )
    add_options(parser, Settings, without=SECRETS)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP; 0 after an orderly end."""
    flags = vars(args)
    named: Path | None = flags.pop("bundle_dir")
    is_on_sagemaker = is_word_of_sagemaker(named)
    settings = build_settings(flags, usual_port=SAGEMAKER_PORT if is_on_sagemaker else None)
    others = {"--metrics-port": settings.metrics_port, "--grpc-port": settings.grpc_port}
    check_ports(os.environ, others)
    for name in (HEALTH_ROUTE, PREDICT_ROUTE):
        vertex_route(os.environ, name)
    directory = bundle_place(os.environ) if named is None or is_on_sagemaker else named
    prepare_process(settings)
    make_room_for_connections(settings)
    with grpc_port_taken(settings) as settings:
        return _serve(looking(directory, settings), settings)


def _serve(look: Callable[[], Plan], settings: Settings) -> int:
    if settings.workers > 1:
        from snapensemble.serving.process.workers import serve_with_workers

        return serve_with_workers(look, settings, announce=lambda text: print(text, flush=True))
    from snapensemble.serving.process.repository import on_hangup
    from snapensemble.serving.process.worker import serve
    from snapensemble.serving.shutdown import Shutdown
    from snapensemble.serving.telemetry.metrics import Metrics

    first = look()
    serve(
        first,
        settings,
        listen=lambda: listening(bind_ports(settings)),
        announce=lambda lanes, ports: print(greeting(settings, first, lanes, ports), flush=True),
        shutdown=Shutdown(settings.drain_seconds, shutdown_s=settings.shutdown_timeout_s),
        metrics=Metrics(),
        look=look,
        on_news=on_hangup,
    )
    return 0


def looking(directory: Path, settings: Settings) -> Callable[[], Plan]:
    """What looks for what is to be served: a bundle, or the models of a directory."""
    return partial(
        plan,
        directory,
        versions=settings.versions,
        name=settings.name,
        expected_sha256=partial(expected_sha256, settings=settings),
    )


def expected_sha256(bundle_dir: Path, settings: Settings) -> str | None:
    """The hash that a bundle's manifest must have: the one of the settings, or the signed one.

    Raises:
        InvalidSignature: the bundle is not signed, not by this key, or changed.
        InvalidConfig: the key cannot be used, or another bundle is expected.
    """
    if settings.verify_key is None:
        return settings.expect_bundle
    from snapensemble.contracts.signatures import verify_bundle

    signed = verify_bundle(bundle_dir, settings.verify_key)
    if settings.expect_bundle not in (None, signed):
        raise InvalidConfig(
            f"--expect-bundle: the bundle that is signed has the sha256 {signed}, expected "
            f"{settings.expect_bundle}"
        )
    return signed


def build_settings(
    flags: dict[str, object], *, for_server: bool = True, usual_port: str | None = None
) -> Settings:
    """The settings: flags win over variables, and variables over defaults.

    The port may also come from the variable of a platform, if no setting says it.

    Args:
        flags: values by names of settings.
        for_server: whether a port is to be opened with them, so that variables must be right.
        usual_port: the port if nothing else says it, in place of the default.

    Raises:
        InvalidConfig: a value is out of bounds, or a variable no setting; the message names it.
    """
    if for_server:
        check_environment(os.environ, Settings.model_fields, flags)
    found = {name.upper() for name, value in os.environ.items() if value}
    platforms = None
    if for_server and "port" not in flags and variable("port") not in found:
        platforms = port_variable(os.environ)
        port = os.environ[platforms] if platforms else usual_port
        flags = {**flags, **({} if port is None else {"port": port})}

    def word(name: str) -> str:
        if name == "port" and platforms:
            return platforms
        is_variable = name in SECRETS or (name not in flags and variable(name) in found)
        return variable(name) if is_variable else flag(name)

    return build(Settings, flags, word)
