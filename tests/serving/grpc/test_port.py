"""The port for gRPC: taken at start, named by the greeting, shared by workers, left in order."""

import asyncio
import builtins
import signal
import socket
import struct
from pathlib import Path
from typing import Any

import httpx
import pytest

from snapensemble.cli import main
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.server_process import server_process
from snapensemble.serving.process.grpc_port import grpc_port_taken
from snapensemble.serving.process.sockets import bind_port
from snapensemble.serving.settings import Settings

pytest.importorskip("grpc", reason="gRPC is not tried: pip install 'snapensemble[grpc]'")

import grpc

from snapensemble.serving.grpc.messages import SERVICE
from tests.serving.grpc.calling import Client, raw_pictures, tensors_of

pytestmark = pytest.mark.extra

ANY = Settings(grpc_port=0)


def test_a_free_port_is_taken_and_named_and_nobody_listens_yet() -> None:
    with grpc_port_taken(ANY) as settings:
        assert settings.grpc_port and settings.grpc_address == f"127.0.0.1:{settings.grpc_port}"
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", settings.grpc_port)) != 0


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("localhost", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2"),
    ],
)
def test_grpc_is_told_the_address_that_http_has(host: str, address: str) -> None:
    with grpc_port_taken(ANY.model_copy(update={"host": host})) as settings:
        assert settings.grpc_address == f"{address}:{settings.grpc_port}"
        with bind_port(settings.host, 0) as http:
            assert http.getsockname()[0] == address


def test_a_port_that_another_server_of_the_same_user_has_is_refused() -> None:
    with (
        grpc_port_taken(ANY) as settings,
        pytest.raises(InvalidConfig, match="choose another --grpc-port"),
        grpc_port_taken(settings),
    ):
        pass


def test_without_the_packages_the_flag_says_what_to_install(
    bundle_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    true_import = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("snapensemble.serving.grpc"):
            raise ImportError("No module named 'grpc'")
        return true_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["serve", str(bundle_dir), "--grpc-port", "0"]) == 2
    assert "No module named 'grpc'; pip install 'snapensemble[grpc]'" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_answers_over_grpc_and_drains_it(bundle_dir: Path, workers: str) -> None:
    flags = ["--port", "0", "--grpc-port", "0", "--workers", workers, "--drain-seconds", "600"]
    with server_process(bundle_dir, *flags) as (process, url):
        assert process.stdout is not None
        address = process.stdout.readline().strip().removeprefix("gRPC on ")
        asyncio.run(asked_while_it_drains(process, address, url))


async def asked_while_it_drains(process: Any, address: str, url: str) -> None:
    """Ask over several connections, send SIGTERM, and see that it is not ready and answers."""
    clients = [Client(address) for _ in range(4)]
    for client in clients:
        assert (await client.call("ServerReady", b"", wait_for_ready=True)).ready
        assert tensors_of(await client.call("ModelInfer", raw_pictures()))
    process.send_signal(signal.SIGTERM)
    for client in clients:
        while (await client.call("ServerReady", b"")).ready:
            pass
        assert tensors_of(await client.call("ModelInfer", raw_pictures()))
    assert httpx.get(f"{url}/v2/health/ready").status_code == 503
    for client in clients:
        await client.channel.close()


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2 (RFC 9113, 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A field of a head as it is (RFC 7541, 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


HEAD = {
    b":method": b"POST", b":scheme": b"http", b":path": f"/{SERVICE}/ServerLive".encode(),
    b":authority": b"x", b"content-type": b"application/grpc", b"te": b"trailers",
}  # fmt: skip
ODD = ({b"a": b"\xff\xfe"}, {b"grpc-timeout": b"soon"}, {b"te": b"x"})
HEADERS, SETTINGS, PING, ALL_OF_IT, ACK = 1, 4, 6, 5, 1
PING_DATA = b"12345678"


def test_clients_cannot_write_to_the_log_of_a_server(
    bundle_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0)
    for place, odd in enumerate(ODD):
        fields = b"".join(literal(*field) for field in {**HEAD, **odd}.items())
        data += frame(HEADERS, ALL_OF_IT, 2 * place + 1, fields)
    flags = ["--port", "0", "--grpc-port", "0", "--max-connections", "9"]  # files for all of them
    with server_process(bundle_dir, *flags) as (process, _):
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(data + frame(PING, 0, 0, PING_DATA))
            came = b""
            while frame(PING, ACK, 0, PING_DATA) not in came:
                came += client.recv(65536)
    assert capfd.readouterr().err == ""


def test_a_server_that_has_stopped_leaves_the_port(bundle_dir: Path) -> None:
    with server_process(bundle_dir, "--port", "0", "--grpc-port", "0") as (process, _):
        assert process.stdout is not None
        address = process.stdout.readline().strip().removeprefix("gRPC on ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0

    async def ask() -> None:
        client = Client(address)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call("ServerLive", b"")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(ask())
