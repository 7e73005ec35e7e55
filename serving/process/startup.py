"""What comes before a process serves, and the message that tells a worker's parent that it does.

The worker has a pipe of its own for one line, a structured message: whatever else writes to
standard output, it is not taken for one.
"""

import asyncio
import contextlib
import logging
import os
from asyncio.subprocess import DEVNULL
from collections.abc import Awaitable, Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from snapensemble.contracts.bundle import BundleManifest
from snapensemble.serving.http.auth import read_tokens
from snapensemble.serving.process.libraries import give_large_blocks_back, silence_decoders
from snapensemble.serving.process.sockets import Ports
from snapensemble.serving.settings import Settings
from snapensemble.serving.telemetry.logs import configure_logging

log = logging.getLogger("snapensemble")


def prepare_process(settings: Settings) -> None:
    """Prepare this process, or each worker for itself, before members are loaded.

    Raises:
        InvalidConfig: the tokens cannot be read or are not right.
    """
    read_tokens(settings)
    configure_logging(settings.log_format)
    silence_decoders()
    give_large_blocks_back()


def greeting(settings: Settings, bundle: BundleManifest, lanes: int, ports: Ports) -> str:
    """The lines that say what is served where, one per port; scripts wait for them."""
    workers = f", workers: {settings.workers}" if settings.workers > 1 else ""
    url, *others = ports.urls
    return "\n".join(
        [
            f"Serving {settings.name or bundle.name} {bundle.version} "
            f"(members: {len(bundle.members)}, lanes: {lanes}{workers}) on {url}",
            *(f"Metrics on {other}/metrics" for other in others),
            *([f"gRPC on {settings.grpc_address}"] if settings.grpc_address else []),
        ]
    )


class Ready(BaseModel):
    """A worker's only message, that it accepts connections."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    message: Literal["ready"] = "ready"
    protocol: Literal[1] = 1  # another version of this software may have another number
    pid: int


def say_ready(descriptor: int) -> None:
    """Tell the parent, which may have died, that this worker accepts connections."""
    with contextlib.suppress(BrokenPipeError):
        os.write(descriptor, Ready(pid=os.getpid()).model_dump_json().encode() + b"\n")
    os.close(descriptor)


async def hearing_ready(descriptor: int) -> Callable[[int], Awaitable[bool]]:
    """Listen to a worker's pipe from now on; the descriptor is closed at its end.

    Returns:
        A function that waits for the worker with a process id: until it has said that it is ready
        (True), or can say nothing more (False).
    """
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb")
    )

    async def is_ready(pid: int) -> bool:
        try:
            line = await reader.readline()
        finally:
            transport.close()
        return bool(line) and is_message_of(pid, line)

    return is_ready


def is_message_of(pid: int, line: bytes) -> bool:
    """Whether a line is the message of this process that it is ready; the log says if it is not."""
    try:
        message = Ready.model_validate_json(line)
    except ValidationError:
        log.error(
            "worker %d said %.80r, expected that it is ready; was the software exchanged while the "
            "server ran? Start it again",
            pid,
            line,
        )
        return False
    if message.pid != pid:
        log.error("worker %d said that %d is ready", pid, message.pid)
    return message.pid == pid


def standard_error() -> int:
    """Where a worker's other output goes, so that the greeting is alone on standard output."""
    try:
        os.fstat(2)
    except OSError:
        return DEVNULL
    return 2
