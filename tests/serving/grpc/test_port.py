"""The port for gRPC: taken at start, named by the greeting, shared by workers, left in order."""

import asyncio
import builtins
import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from snapensemble.cli import main
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.server_process import server_process
from snapensemble.serving.process.grpc_port import grpc_port_taken
from snapensemble.serving.settings import Settings

pytest.importorskip("grpc", reason="gRPC is not tried: pip install 'snapensemble[grpc]'")

import grpc

from tests.serving.grpc.calling import Client, raw_pictures, tensors_of

pytestmark = pytest.mark.extra

ANY = Settings(grpc_port=0)


def test_a_free_port_is_taken_and_named_and_nobody_listens_yet() -> None:
    with grpc_port_taken(ANY) as settings:
        assert settings.grpc_port and settings.grpc_address == f"127.0.0.1:{settings.grpc_port}"
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", settings.grpc_port)) != 0


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
