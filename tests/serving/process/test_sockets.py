"""Ports of one and of both families, and sockets in the file system."""

import os
import signal
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.server_process import ServerFailed, server_process
from snapensemble.serving.cli import build_settings
from snapensemble.serving.process.sockets import (
    Ports,
    at_the_door,
    bind_port,
    bind_ports,
    is_shut,
    listening,
    shut,
    url_of,
)
from snapensemble.serving.process.unix_sockets import LONGEST, bind_path
from snapensemble.serving.settings import Settings
from tests.factories import encoded, picture

PNG = encoded(picture(1))


@pytest.fixture
def path() -> Iterator[Path]:
    """Where a socket may be; pytest's own directories may be too deep for one."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory) / "s.sock"


def asking(path: Path) -> httpx.Client:
    return httpx.Client(
        transport=httpx.HTTPTransport(uds=str(path)), base_url="http://x", timeout=30
    )


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6: not tried")


@needs_ipv6
@pytest.mark.parametrize("host", ["::", "0:0:0:0:0:0:0:0", "::0"])
def test_all_addresses_are_those_of_ipv4_too(host: str) -> None:
    with listening(Ports(bind_port(host, 0))) as ports:
        port = ports.clients.getsockname()[1]
        for address in ("::1", "127.0.0.1"):
            socket.create_connection((address, port), timeout=5).close()


@needs_ipv6
def test_one_address_is_of_its_family_alone() -> None:
    with listening(Ports(bind_port("::1", 0))) as ports:
        assert ports.clients.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        port = ports.clients.getsockname()[1]
        socket.create_connection(("::1", port), timeout=5).close()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=5)


@needs_ipv6
def test_where_the_system_has_no_such_sockets_all_of_ipv6_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with bind_port("::", 0) as listener:
        assert listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


@pytest.mark.parametrize("mode", ["660", "600", "666"])
def test_a_path_has_the_mode_that_is_set_and_no_port(path: Path, mode: str) -> None:
    with bind_ports(Settings(uds=path, uds_mode=mode)) as ports:
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
        assert ports.urls == [f"unix:{path}"]


def test_metrics_may_have_a_port_beside_a_path(path: Path) -> None:
    with bind_ports(Settings(uds=path, metrics_port=0)) as ports:
        assert ports.urls[0] == f"unix:{path}" and ports.urls[1].startswith("http://127.0.0.1:")


def test_a_path_is_given_back_if_another_port_is_taken(path: Path) -> None:
    with listening(Ports(bind_port("127.0.0.1", 0))) as taken:
        port = taken.clients.getsockname()[1]
        with pytest.raises(InvalidConfig, match="--metrics-port"):
            bind_ports(Settings(uds=path, metrics_port=port))
    assert not path.exists()


def test_what_a_dead_server_has_left_is_replaced(path: Path) -> None:
    listening(Ports(bind_path(path, 0o600))).close()
    assert path.exists()
    with listening(Ports(bind_path(path, 0o600))), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_server_that_listens_keeps_its_path(path: Path) -> None:
    with listening(Ports(bind_path(path, 0o600))) as ports:
        with pytest.raises(InvalidConfig, match=f"--uds {path}: another server has this socket"):
            bind_path(path, 0o600)
        assert at_the_door(ports.clients) == 1 and path.exists()


@pytest.mark.skipif(not Path("/proc/net/unix").exists(), reason="the system has no such table")
def test_a_server_that_does_not_listen_yet_keeps_its_path(path: Path) -> None:
    with bind_path(path, 0o600), pytest.raises(InvalidConfig, match="another server has"):
        bind_path(path, 0o600)


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_stays(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("elsewhere")
    with pytest.raises(InvalidConfig, match=f"--uds {path}: there is a file that is no socket"):
        bind_path(path, 0o600)
    assert os.path.lexists(path)


def test_a_path_that_cannot_be_says_why(path: Path) -> None:
    long = path.parent / ("x" * LONGEST)
    with pytest.raises(InvalidConfig, match=f"has {len(bytes(long))} bytes, at most {LONGEST} are"):
        bind_path(long, 0o600)
    with pytest.raises(InvalidConfig, match="there is no directory .*/nowhere; make it first"):
        bind_path(path.parent / "nowhere" / "s.sock", 0o600)
    with pytest.raises(InvalidConfig, match=r"cannot listen on --uds /proc/s.sock: "):
        bind_path(Path("/proc/s.sock"), 0o600)
    longest = path.parent / ("x" * (LONGEST - len(bytes(path.parent)) - 1))
    bind_path(longest, 0o600).close()


@pytest.mark.parametrize("mode", ["", "66", "0660", "668", "rw-"])
def test_a_mode_is_three_octal_digits(mode: str) -> None:
    with pytest.raises(InvalidConfig, match="^--uds-mode: expected three octal digits"):
        build_settings({"uds_mode": mode})


def test_who_is_at_the_door_when_the_path_is_shut_is_still_let_in(path: Path) -> None:
    with listening(Ports(bind_path(path, 0o600))) as ports:
        listener = ports.clients
        assert not is_shut(listener) and at_the_door(listener) == 0
        with socket.socket(socket.AF_UNIX) as client, socket.socket(socket.AF_UNIX) as late:
            client.connect(str(path))
            shut(listener)
            assert is_shut(listener) and at_the_door(listener) == 1
            with pytest.raises(FileNotFoundError):
                late.connect(str(path))
            accepted, _ = listener.accept()
            with closing(accepted):
                accepted.sendall(b"welcome")
                assert client.recv(7) == b"welcome"
        assert at_the_door(listener) == 0


def test_a_server_that_is_shut_leaves_the_path_to_the_next(path: Path) -> None:
    with listening(Ports(bind_path(path, 0o600))) as first:
        shut(first.clients)
        with listening(Ports(bind_path(path, 0o600))):
            shut(first.clients)  # as its workers do when their parent has died
            assert path.exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_answers_on_a_path_and_leaves_nothing(
    bundle_dir: Path, path: Path, workers: str
) -> None:
    flags = ("--uds", str(path), "--workers", workers, "--threads", "1")
    with server_process(bundle_dir, *flags) as (process, url):
        assert url == f"unix:{path}"
        with asking(path) as http:
            assert http.post("/predict", content=PNG).status_code == 200
            assert http.get("/health/ready").json() == {"ready": True}
        with socket.socket(socket.AF_UNIX) as half:
            half.settimeout(30)
            half.connect(str(path))
            half.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n")
            process.send_signal(signal.SIGTERM)
            half.sendall(b"\r\n")
            assert half.recv(1000).startswith(b"HTTP/1.1 200")
        assert process.wait(30) == 0
    assert not path.exists()


def test_a_server_that_was_killed_is_no_obstacle(bundle_dir: Path, path: Path) -> None:
    with server_process(bundle_dir, "--uds", str(path)) as (process, _):
        process.kill()
        process.wait()
        assert path.exists()
        with server_process(bundle_dir, "--uds", str(path)):
            with pytest.raises(ServerFailed, match="exit code 2"):
                server_process(bundle_dir, "--uds", str(path)).__enter__()
            with asking(path) as http:
                assert http.get("/health/live").status_code == 200


@needs_ipv6
def test_a_server_on_all_addresses_answers_both_families(bundle_dir: Path) -> None:
    with server_process(bundle_dir, "--port", "0", "--host", "::") as (_, url):
        assert url.startswith("http://[::]:")
        for host in ("[::1]", "127.0.0.1"):
            assert httpx.get(url.replace("[::]", host) + "/health/live").status_code == 200


def test_an_address_is_shown_as_in_a_url() -> None:
    with bind_port("127.0.0.1", 0) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
