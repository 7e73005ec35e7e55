"""The sockets of a server: bound first, listening when the members are warm."""

import contextlib
import socket
from dataclasses import dataclass

from contracts.errors import InvalidConfig
from serving.settings import Settings

BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class Ports:
    """One socket for clients, and perhaps one for /metrics alone. A context manager closes both."""

    clients: socket.socket
    metrics: socket.socket | None = None

    def __enter__(self) -> "Ports":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def all(self) -> list[socket.socket]:
        """Those that there are."""
        return [self.clients] if self.metrics is None else [self.clients, self.metrics]

    @property
    def urls(self) -> list[str]:
        """Where each can be reached."""
        return [url_of(listener) for listener in self.all]

    def close(self) -> None:
        """Close them here; a process that has inherited them is not affected."""
        for listener in self.all:
            listener.close()


def bind_ports(settings: Settings) -> Ports:
    """Sockets that have their ports and refuse connections until they listen.

    Raises:
        InvalidConfig: a port is taken, or the address is not this machine's.
    """
    with contextlib.ExitStack() as stack:
        clients = stack.enter_context(bind_port(settings.host, settings.port))
        metrics = None
        if settings.metrics_port is not None:
            metrics = bind_port(settings.host, settings.metrics_port, flag="--metrics-port")
        stack.pop_all()
    return Ports(clients, metrics)


def listening(ports: Ports) -> Ports:
    """From now on connections are accepted, by every process that has these sockets.

    Raises:
        InvalidConfig: another server was quicker to listen there.
    """
    for listener in ports.all:
        try:
            listener.listen(BACKLOG)
        except OSError as error:
            ports.close()
            raise InvalidConfig(f"cannot listen: {error.strerror or error}") from error
    return ports


def bind_port(host: str, port: int, *, flag: str = "--port") -> socket.socket:
    """One such socket.

    Args:
        host: the address.
        port: 0 takes a free one.
        flag: which sets the port, for the message.

    Raises:
        InvalidConfig: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise InvalidConfig(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another {flag} "
            "(0 takes a free one) or --host"
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a socket can be reached."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"
