"""What comes before a process serves."""

import os
from asyncio.subprocess import DEVNULL

from snapensemble.serving.http.auth import read_tokens
from snapensemble.serving.inference.repository import Plan
from snapensemble.serving.process.libraries import give_large_blocks_back, silence_libraries
from snapensemble.serving.process.sockets import Ports
from snapensemble.serving.settings import Settings
from snapensemble.serving.telemetry.logs import configure_logging


def prepare_process(settings: Settings) -> None:
    """Prepare this process, or each worker for itself, before members are loaded.

    Raises:
        InvalidConfig: the tokens cannot be read or are not right.
    """
    read_tokens(settings)
    configure_logging(settings.log_format)
    silence_libraries()
    give_large_blocks_back()


def greeting(settings: Settings, plan: Plan, lanes: int, ports: Ports) -> str:
    """The lines that say what is served where, one per port; scripts wait for them."""
    workers = f", workers: {settings.workers}" if settings.workers > 1 else ""
    url, *others = ports.urls
    names = ", ".join(f"{each.name} {each.version}" for each in plan.models)
    members = " + ".join(str(each.members) for each in plan.models)
    return "\n".join(
        [
            f"Serving {names} (members: {members}, lanes: {lanes}{workers}) on {url}",
            *(f"Metrics on {other}/metrics" for other in others),
            *([f"gRPC on {settings.grpc_address}"] if settings.grpc_address else []),
        ]
    )


def standard_error() -> int:
    """Where a worker's other output goes, so that the greeting is alone on standard output."""
    try:
        os.fstat(2)
    except OSError:
        return DEVNULL
    return 2
