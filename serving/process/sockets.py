"""The sockets of a server: bound first, listening when the members are warm, shut before the end.

A listening socket that is closed resets the connections that nobody has accepted yet, and there is
always one between the last look and the close. So it is shut first: the kernel drops requests for
new connections, whose clients ask again and are refused once it is closed, while connections that
wait, or are half way through their handshake, are still accepted. A socket in the file system is
shut by removing its file.
"""

import contextlib
import ctypes
import ipaddress
import select
import socket
import struct
import sys
from dataclasses import dataclass

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.serving.process.unix_sockets import bind_path, remove
from snapensemble.serving.settings import Settings

BACKLOG = 2048
SO_ATTACH_FILTER = SO_GET_FILTER = 26  # options of Linux that Python does not name
# A program for the kernel (BPF) which drops segments that begin a connection: of the flags SYN and
# ACK they have the first alone. Code, jumps if true and if false, operand.
NO_NEWCOMERS = (
    (0x30, 0, 0, 13),  # load the byte with the flags of the TCP header
    (0x54, 0, 0, 0x12),
    (0x15, 0, 1, 0x02),
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # keep
)


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
        """The sockets that there are, the one for clients first."""
        return [self.clients] if self.metrics is None else [self.clients, self.metrics]

    @property
    def urls(self) -> list[str]:
        """The URLs under which the sockets can be reached."""
        return [url_of(listener) for listener in self.all]

    def close(self) -> None:
        """Close the sockets here; a process that has inherited them is not affected."""
        for listener in self.all:
            listener.close()


def bind_ports(settings: Settings) -> Ports:
    """Bind sockets to the ports, or to a path; they refuse connections until they listen.

    Raises:
        InvalidConfig: a port or the path is taken, or the address is not this machine's.
    """
    with contextlib.ExitStack() as stack:
        if settings.uds is None:
            clients = stack.enter_context(bind_port(settings.host, settings.port))
        else:
            clients = stack.enter_context(bind_path(settings.uds, int(settings.uds_mode, 8)))
            stack.callback(remove, clients)
        metrics = None
        if settings.metrics_port is not None:
            metrics = bind_port(settings.host, settings.metrics_port, flag="--metrics-port")
        stack.pop_all()
    return Ports(clients, metrics)


def listening(ports: Ports) -> Ports:
    """Listen, so that every process that has these sockets accepts connections from now on.

    Raises:
        InvalidConfig: another server was quicker to listen on a port.
    """
    for listener in ports.all:
        try:
            listener.listen(BACKLOG)
        except OSError as error:
            place = url_of(listener)
            ports.close()
            raise InvalidConfig(
                f"cannot listen on {place}: {error.strerror or error}; stop the other server, or "
                "choose another port"
            ) from error
    return ports


def shut(listener: socket.socket) -> None:
    """Let no client connect any more, for all processes that listen on this socket.

    A socket in the file system loses its file, unless it was shut before: another server may have
    the path by now. Elsewhere than on Linux nothing happens to a port: then one that comes at the
    last moment may be reset.
    """
    if listener.family == socket.AF_UNIX and not (sys.platform == "linux" and is_shut(listener)):
        remove(listener)  # the kernel keeps the program below, as a mark
    if sys.platform == "linux":
        program = ctypes.create_string_buffer(
            b"".join(struct.pack("HBBI", *line) for line in NO_NEWCOMERS)
        )
        counted = struct.pack("HP", len(NO_NEWCOMERS), ctypes.addressof(program))
        with contextlib.suppress(OSError):  # the kernel may have no such filters
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, counted)


def is_shut(listener: socket.socket) -> bool:
    """Whether a process has shut this socket."""
    try:
        return bool(listener.getsockopt(socket.SOL_SOCKET, SO_GET_FILTER, 1024))
    except OSError:
        return True  # it cannot be shut here, so there is nothing to wait for


def at_the_door(listener: socket.socket) -> int:
    """How many connections nobody has accepted yet; 0 where the kernel does not say."""
    if listener.family == socket.AF_UNIX:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        return len(poll.poll(0))  # 1 if there are any
    if sys.platform != "linux":
        return 0
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    (waiting,) = struct.unpack_from("I", info, 24)  # tcpi_unacked: for a listener, these
    return int(waiting)


def bind_port(host: str, port: int, *, flag: str = "--port") -> socket.socket:
    """Bind one socket to a port; it refuses connections until it listens.

    Args:
        host: the address; `::` is all addresses, those of IPv4 too where the system allows it.
        port: 0 takes a free one.
        flag: the flag that sets the port, for the message.

    Raises:
        InvalidConfig: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            is_for_both = _is_every_address(host) and socket.has_dualstack_ipv6()
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not is_for_both)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise InvalidConfig(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another {flag} "
            "(0 takes a free one) or --host"
        ) from error
    return listener


def _is_every_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:  # bind will say so
        return False


def url_of(listener: socket.socket) -> str:
    """The URL under which a socket can be reached; `unix:` and the path where it is a file."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"
