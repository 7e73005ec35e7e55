"""Ways into a cluster that is not there; `tests/ray` has one that is."""

import socket
import sys
import threading

import pytest

from snapensemble.contracts.cluster import connection
from snapensemble.contracts.cluster.connection import connected, import_ray
from snapensemble.contracts.cluster.options import RayOptions
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.options import build


def refused(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is said of an address, where Ray is installed but never asked."""
    monkeypatch.setitem(sys.modules, "ray", type(sys)("ray"))
    with pytest.raises(InvalidConfig) as error, connected(address):
        pass
    return str(error.value)


def test_without_ray_the_line_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InvalidConfig, match=r"pip install 'snapensemble\[ray\]'"):
        import_ray()


@pytest.mark.parametrize(
    "address", ["head", "ray://head:10001", "head:", ":6379", "head:0", "head:65536", "head:x"]
)
def test_what_is_no_address_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "expected HOST:PORT" in refused(address, monkeypatch)


def test_where_nobody_listens_there_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "nobody answers there within 5 s" in refused(f"127.0.0.1:{port}", monkeypatch)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "no cluster of Ray"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no cluster of Ray"),
        (None, "nobody answers there within 0 s"),
    ],
)
def test_what_listens_and_is_no_cluster_is_told_from_one(
    answer: bytes | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECT_S", 0.2 if answer is None else 5.0)
    is_over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            accepted, _ = listener.accept()
            with accepted:
                if answer is None:
                    is_over.wait()
                else:
                    accepted.recv(64)
                    accepted.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        said = refused(f"127.0.0.1:{listener.getsockname()[1]}", monkeypatch)
        is_over.set()
        thread.join()
    assert message in said


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ray_cpus": 2}, "--ray-cpus needs --ray"),
        ({"ray_gpus": 1}, "--ray-gpus needs --ray"),
        ({"ray": "auto", "ray_gpus": 1.5}, "--ray-gpus is a share of one GPU"),
        ({"ray": "auto", "ray_cpus": 0}, "--ray-cpus: expected a whole number"),
    ],
)
def test_options_that_do_not_fit_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        build(RayOptions, values)
