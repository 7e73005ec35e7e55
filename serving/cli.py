"""`snapensemble serve`: a bundle directory -> a server on a port."""

import argparse
import os
from pathlib import Path

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.options import add_options, build, flag
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
        help="made by snapensemble export; where a platform has put it if not given",
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
    bundle_dir = bundle_place(os.environ) if named is None or is_on_sagemaker else named
    settings = expecting_what_is_signed(bundle_dir, settings)
    prepare_process(settings)
    with grpc_port_taken(settings) as settings:
        return _serve(bundle_dir, settings)


def _serve(bundle_dir: Path, settings: Settings) -> int:
    if settings.workers > 1:
        from snapensemble.serving.process.workers import serve_with_workers

        return serve_with_workers(
            bundle_dir, settings, announce=lambda text: print(text, flush=True)
        )
    from snapensemble.serving.process.worker import serve
    from snapensemble.serving.shutdown import Shutdown
    from snapensemble.serving.telemetry.metrics import Metrics

    serve(
        bundle_dir,
        settings,
        listen=lambda: listening(bind_ports(settings)),
        announce=lambda engine, ports: print(
            greeting(settings, engine.bundle, engine.scheduler.threads, ports), flush=True
        ),
        shutdown=Shutdown(settings.drain_seconds, shutdown_s=settings.shutdown_timeout_s),
        metrics=Metrics(),
    )
    return 0


def expecting_what_is_signed(bundle_dir: Path, settings: Settings) -> Settings:
    """The settings, with the hash of the bundle that the key has signed, if there is a key.

    All workers expect that hash, also those that are started later: none of them reads a key.

    Raises:
        InvalidSignature: the bundle is not signed, not by this key, or changed.
        InvalidConfig: the key cannot be used, or another bundle is expected.
    """
    if settings.verify_key is None:
        return settings
    from snapensemble.contracts.signatures import verify_bundle

    signed = verify_bundle(bundle_dir, settings.verify_key)
    if settings.expect_bundle not in (None, signed):
        raise InvalidConfig(
            f"--expect-bundle: the bundle that is signed has the sha256 {signed}, expected "
            f"{settings.expect_bundle}"
        )
    return settings.model_copy(update={"expect_bundle": signed})


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
