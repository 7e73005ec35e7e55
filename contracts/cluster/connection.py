"""The way into a cluster of Ray: found within seconds, with the same software on every node.

Rows and weights are the same to the bit only where the packages that compute them are. Ray itself
refuses a driver whose Python or Ray is another than the cluster's.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from snapensemble.contracts.cluster.options import LOCAL
from snapensemble.contracts.cpu import cpu_budget
from snapensemble.contracts.errors import InvalidConfig, SnapensembleError
from snapensemble.contracts.process import SIGNALS, Stopped

CONNECT_S = 5.0  # until somebody must have answered at an address
ASK_S = 60.0  # until every node must have said what is installed there
# Ray waits for minutes where something else listens. Its head speaks gRPC, which is HTTP/2: both
# sides begin with a frame of settings (RFC 9113, section 3.4).
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
HTTP2_SETTINGS = b"\4"
LOCAL_STORE_BYTES = 512 << 20
ALWAYS = ("snapensemble", "numpy", "pillow")


class ClusterFailed(SnapensembleError):
    """The cluster has failed, or a part of it that was needed."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, and what of it may be taken."""

    key: str  # Ray's own name of it
    address: str
    cpus: int
    gpus: int


def described(nodes: Sequence[Node]) -> str:
    """What the nodes have, for a message."""
    return ", ".join(f"{node.address}: {node.cpus} CPUs, {node.gpus} GPUs" for node in nodes)


def import_ray() -> ModuleType:
    """The package Ray, which is told before it is imported to send nothing to its makers.

    Raises:
        InvalidConfig: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Its core would warn, among others, of how Ray Data itself makes actors.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise InvalidConfig(
            "--ray needs the package ray, which is not installed here: "
            "pip install 'snapensemble[ray]', on every node of the cluster"
        ) from error
    module: ModuleType = ray
    return module


@contextmanager
def connected(address: str, packages: Sequence[str] = ()) -> Iterator[list[Node]]:
    """Join a cluster, yield its nodes, and leave it; a cluster of one's own ends then.

    Args:
        address: HOST:PORT, `auto` or `local`.
        packages: that must have the same version on all nodes, beside those that always must.

    Raises:
        InvalidConfig: Ray is not installed, no cluster is there, or one has other software.
        ClusterFailed: a node does not say what is installed there.
    """
    ray = import_ray()
    _refuse_what_is_no_address(address)
    handlers = {signum: signal.getsignal(signum) for signum in SIGNALS}
    try:
        _join(ray, address)
        _put_back(handlers)  # Ray has taken SIGTERM
        nodes = [
            Node(
                each["NodeID"],
                each["NodeManagerAddress"],
                int(each["Resources"].get("CPU", 0)),
                int(each["Resources"].get("GPU", 0)),
            )
            for each in ray.nodes()
            if each["Alive"]
        ]
        refuse_other_software(ray, nodes, [*ALWAYS, *packages])
        yield nodes
    except SystemError as error:
        # What a signal's handler raises while Ray's core is at work arrives as the cause of this.
        if isinstance(error.__cause__, Stopped):
            raise error.__cause__ from None
        raise
    finally:
        ray.shutdown()
        _put_back(handlers)


def _join(ray: ModuleType, address: str) -> None:
    own: dict[str, Any] = {}
    if address == LOCAL:
        own = {"num_cpus": cpu_budget(), "object_store_memory": LOCAL_STORE_BYTES}
        own["include_dashboard"] = False
    try:
        ray.init(
            address=address,
            logging_level=logging.ERROR,
            log_to_driver=False,
            configure_logging=True,
            **own,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        found = " ".join(str(error).split())
        if "ersion mismatch" in found:
            raise InvalidConfig(
                f"--ray {address}: {found}; start this command with what the cluster runs"
            ) from error
        raise InvalidConfig(
            f"--ray {address}: no cluster of Ray can be joined there: {found}; start one by "
            "`ray start --head`, and give its HOST:PORT, or give --ray local"
        ) from error


def _refuse_what_is_no_address(address: str) -> None:
    """Raise InvalidConfig unless somebody listens at an address that has a port."""
    if address in (LOCAL, "auto"):
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InvalidConfig(
            f"--ray {address}: expected HOST:PORT of the cluster's head, auto or local; start "
            "this command on a machine of the cluster (ray:// leads in from outside and is not "
            "taken)"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_S) as connection:
            connection.settimeout(CONNECT_S)
            connection.sendall(HTTP2_HELLO)
            kind = connection.recv(4, socket.MSG_WAITALL)[3:]
    except OSError as error:
        raise InvalidConfig(
            f"--ray {address}: nobody answers there within {CONNECT_S:.0f} s "
            f"({error.strerror or error}); start a cluster by `ray start --head`, or give "
            "--ray local"
        ) from error
    if kind != HTTP2_SETTINGS and os.environ.get("RAY_USE_TLS", "0") == "0":
        raise InvalidConfig(
            f"--ray {address}: what listens there is no cluster of Ray, which would speak gRPC; "
            "give the HOST:PORT that `ray start --head` has said"
        )


def refuse_other_software(ray: ModuleType, nodes: Sequence[Node], packages: Sequence[str]) -> None:
    """Raise InvalidConfig unless all nodes have the same packages as this process."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def versions(names: Sequence[str]) -> dict[str, str | None]:
        # Inside a function, so that it travels as code: what is absent there cannot be imported.
        import importlib.metadata as metadata
        import platform

        found: dict[str, str | None] = {"Python": platform.python_version()}
        for name in names:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                found[name] = None
        return found

    ask = ray.remote(versions)
    asked = [
        ask.options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.key, soft=False),
        ).remote(packages)
        for node in nodes
    ]
    expected = versions(packages)
    for node, reference in zip(nodes, asked, strict=True):
        try:
            found = ray.get(reference, timeout=ASK_S)
        except ray.exceptions.RayError as error:
            raise ClusterFailed(
                f"the node {node.address} does not say within {ASK_S:.0f} s what is installed "
                f"there ({type(error).__name__}); look at it by `ray status`"
            ) from error
        others = [
            f"{name} {found[name] or 'is not installed'}, here {wanted}"
            for name, wanted in expected.items()
            if found[name] != wanted
        ]
        if others:
            raise InvalidConfig(
                f"the node {node.address} has other software: {'; '.join(others)}; install the "
                "same everywhere, or the answers would depend on where they are made"
            )


def _put_back(handlers: dict[signal.Signals, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for signum, handler in handlers.items():
            if handler is not None:  # None: it is no handler of Python's
                signal.signal(signum, handler)
