"""`snapensemble serve`: a bundle directory -> a server on a port."""

import argparse
import os
from pathlib import Path

from contracts.bundle import BundleManifest
from contracts.errors import InvalidConfig
from contracts.options import add_options, build, flag
from serving.allocator import give_large_blocks_back
from serving.environment import check_environment, variable
from serving.logs import configure_logging
from serving.ports import Ports, bind_ports, listening
from serving.quiet import silence_decoders
from serving.settings import Settings
from serving.tokens import read_tokens

SECRETS = ("tokens",)  # no flags: everybody on the machine can read a command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag per setting; variables SNAPENSEMBLE_* count where a flag is not given."""
    parser.add_argument(
        "bundle_dir", type=Path, metavar="BUNDLE_DIR", help="made by snapensemble export"
    )
    add_options(parser, Settings, without=SECRETS)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP; 0 after an orderly end."""
    flags = vars(args)
    bundle_dir: Path = flags.pop("bundle_dir")
    settings = expecting_what_is_signed(bundle_dir, build_settings(flags))
    prepare_process(settings)
    if settings.workers > 1:
        from serving.workers import serve_with_workers

        return serve_with_workers(
            bundle_dir, settings, announce=lambda text: print(text, flush=True)
        )
    from serving.life import Life
    from serving.metrics import Metrics
    from serving.worker import serve

    serve(
        bundle_dir,
        settings,
        listen=lambda: listening(bind_ports(settings)),
        announce=lambda engine, ports: print(
            greeting(settings, engine.bundle, engine.lanes.threads, ports), flush=True
        ),
        life=Life(settings.drain_seconds, shutdown_s=settings.shutdown_timeout_s),
        metrics=Metrics(),
    )
    return 0


def expecting_what_is_signed(bundle_dir: Path, settings: Settings) -> Settings:
    """The settings, with the hash of the bundle that the key has signed, if there is a key.

    Workers expect the same, and those that are started later: none of them reads a key.

    Raises:
        InvalidSignature: the bundle is not signed, not by this key, or changed.
        InvalidConfig: the key cannot be used, or another bundle is expected.
    """
    if settings.verify_key is None:
        return settings
    from contracts.signatures import verify_bundle

    signed = verify_bundle(bundle_dir, settings.verify_key)
    if settings.expect_bundle not in (None, signed):
        raise InvalidConfig(
            f"--expect-bundle: the bundle that is signed has the sha256 {signed}, expected "
            f"{settings.expect_bundle}"
        )
    return settings.model_copy(update={"expect_bundle": signed})


def prepare_process(settings: Settings) -> None:
    """What comes before members are loaded, in this process and in each worker.

    Raises:
        InvalidConfig: the tokens cannot be read or are not right.
    """
    read_tokens(settings)
    configure_logging(settings.log_format)
    silence_decoders()
    give_large_blocks_back()


def greeting(settings: Settings, bundle: BundleManifest, lanes: int, ports: Ports) -> str:
    """What is served where, a line per port; scripts wait for it."""
    workers = f", workers: {settings.workers}" if settings.workers > 1 else ""
    url, *others = ports.urls
    return "\n".join(
        [
            f"Serving {settings.name or bundle.name} {bundle.version} "
            f"(members: {len(bundle.members)}, lanes: {lanes}{workers}) on {url}",
            *(f"Metrics on {other}/metrics" for other in others),
        ]
    )


def build_settings(flags: dict[str, object], *, for_server: bool = True) -> Settings:
    """Flags over variables over defaults.

    Args:
        flags: values by names of settings.
        for_server: whether a port is to be opened with them, so that variables must be right.

    Raises:
        InvalidConfig: a value is out of bounds, or a variable no setting; names it.
    """
    if for_server:
        check_environment(os.environ, Settings.model_fields, flags)
    found = {name.upper() for name in os.environ}

    def word(name: str) -> str:
        is_variable = name in SECRETS or (name not in flags and variable(name) in found)
        return variable(name) if is_variable else flag(name)

    return build(Settings, flags, word)
