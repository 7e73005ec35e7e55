"""/metrics on a second port, with a real server."""

import socket
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest

from snapensemble.server_process import server_process
from snapensemble.serving.http.app import create_app
from snapensemble.serving.http.service import Service
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.process import descriptors
from snapensemble.serving.process.metrics_port import create_metrics_app, serve_metrics
from snapensemble.serving.settings import Settings
from tests.factories import encoded, picture
from tests.fakes import client
from tests.serving.http.test_http import is_problem

PNG = encoded(picture(1))


async def test_the_main_port_then_has_no_metrics(engine: Engine) -> None:
    async with client(create_app(Settings(metrics_port=0), engine)) as http:
        is_problem(await http.get("/metrics"), 404, "not_found")


async def test_the_second_port_has_metrics_and_nothing_else(engine: Engine) -> None:
    service: Service = create_app(Settings(), engine).state.service
    async with client(create_metrics_app(service)) as http:
        reply = await http.get("/metrics")
        assert reply.headers["content-type"].startswith("text/plain")
        assert "snapensemble_queue_images 0.0" in reply.text.splitlines()
        for path in ("/", "/model", "/predict", "/openapi.json", "/docs", "/health/live"):
            is_problem(await http.get(path), 404, "not_found")


def ask(stack: ExitStack, address: tuple[str, int]) -> HTTPConnection:
    """A connection that has been answered, so that the server knows it."""
    connection = HTTPConnection(*address, timeout=30)
    stack.callback(connection.close)
    connection.request("GET", "/metrics")
    assert connection.getresponse().read()
    return connection


def test_it_takes_so_many_connections_and_no_more_so_that_the_other_ports_have_files(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptors, "METRICS", 3)
    service: Service = create_app(Settings(metrics_port=0), engine).state.service
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        serve_metrics(listener, service),
        ExitStack() as stack,
    ):
        address = listener.getsockname()
        for _ in range(3):
            ask(stack, address)
        for _ in range(10):
            with pytest.raises(OSError), ExitStack() as one:
                ask(one, address)
        stack.close()
        while True:  # the server has to notice first
            try:
                ask(stack, address)
            except OSError:
                continue
            break


def test_it_shows_what_the_main_port_has_done_and_ends_with_it(
    bundle_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("a-token-that-is-long-enough")
    flags = ("--port", "0", "--metrics-port", "0", "--tokens-file", str(tmp_path / "tokens"))
    with server_process(bundle_dir, *flags) as (process, url):
        assert process.stdout is not None
        metrics_url = process.stdout.readline().strip().removeprefix("Metrics on ")
        token = {"authorization": "Bearer a-token-that-is-long-enough"}
        assert httpx.post(f"{url}/predict", content=PNG, headers=token).status_code == 200
        lines = httpx.get(metrics_url).text.splitlines()
        assert 'snapensemble_requests_total{code="200",route="/predict"} 1.0' in lines
        assert httpx.get(f"{url}/metrics", headers=token).status_code == 404
        process.terminate()
        assert process.wait(30) == 0
