"""The port for gRPC, taken before members are loaded, and bound again by every process."""

import contextlib
import socket
from collections.abc import Iterator

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.serving.process.sockets import bind_port
from snapensemble.serving.settings import Settings


@contextlib.contextmanager
def grpc_port_taken(settings: Settings) -> Iterator[Settings]:
    """Take the port for gRPC while the body runs; give the settings with address and number.

    gRPC binds by itself and takes no socket of ours, so that the port is only kept from others
    here: bound, and not listening. All workers bind it beside this (SO_REUSEPORT), and the kernel
    shares connections out among them.

    Raises:
        InvalidConfig: the packages are not installed, or the port is taken.
    """
    if settings.grpc_port is None:
        yield settings
        return
    try:
        import snapensemble.serving.grpc.server  # noqa: F401 # needed later, by each process
    except ImportError as error:
        raise InvalidConfig(
            f"--grpc-port: {error}; pip install 'snapensemble[grpc]', or leave the setting out"
        ) from None
    # By itself first: two servers of one user could bind a port beside each other and not notice.
    with bind_port(settings.host, settings.grpc_port, flag="--grpc-port") as alone:
        host, number = alone.getsockname()[:2]
        family = alone.family
    with socket.socket(family) as kept:
        if hasattr(socket, "SO_REUSEPORT"):
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            with contextlib.suppress(OSError):  # taken meanwhile: gRPC will say so
                kept.bind((host, number))
        # gRPC looks names up by itself, and would listen on more addresses than HTTP, or on none.
        yield settings.model_copy(update={"grpc_port": number, "host": host})
