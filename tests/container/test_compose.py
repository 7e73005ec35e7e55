"""`docker compose up`: trains on the digits, exports, serves."""

import contextlib
import functools
import http.server
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.containers.behind_nginx import free_ports
from benchmarks.containers.engine import ENGINE
from tests.factories import encoded, picture

Compose = Callable[..., str]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the torch that pip gives here: often a build without 2 GB for GPUs."""
    directory = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "torch"]
    constraints = Path(__file__).parents[2] / "constraints.txt"
    subprocess.run([*command, "--constraint", constraints, "--dest", directory], check=True)
    handler = functools.partial(Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def compose(clone: Path, wheels: str) -> Iterator[tuple[Compose, str]]:
    """Runs `docker compose`; and the URL of what it serves."""
    (port,) = free_ports(1)
    file = clone / "docker" / "compose.yaml"
    project = f"snapensemble-test-{secrets.token_hex(4)}"
    environment = os.environ | {"PORT": str(port), "PIP_FIND_LINKS": wheels}

    def run(*arguments: str) -> str:
        command = [ENGINE, "compose", "--project-name", project, "--file", str(file), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        yield run, f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(AssertionError):
            run("down", "--volumes", "--timeout", "1")


@pytest.mark.slow
def test_up_gives_an_answer_and_trains_once(compose: tuple[Compose, str]) -> None:
    run, url = compose
    run("build")
    run("up", "--detach", "--wait", "serve")
    reply = httpx.post(f"{url}/predict", content=encoded(picture(1, width=8, height=8)))
    assert reply.status_code == 200 and reply.json()["predictions"][0]["members_used"] == 5
    assert "ensemble" in run("logs", "export")
    first = httpx.get(f"{url}/model").json()
    run("up", "--detach", "--wait", "--force-recreate", "serve")
    assert httpx.get(f"{url}/model").json()["version"] == first["version"]
    assert run("exec", "serve", "cat", "/work/run/run.json") == run(
        "run", "--rm", "--no-deps", "--entrypoint", "cat", "train", "/work/run/run.json"
    )


def test_all_services_are_hardened(compose: tuple[Compose, str]) -> None:
    run, _ = compose
    services = json.loads(run("--profile", "watch", "config", "--format", "json"))["services"]
    for name in ("train", "export", "serve"):
        assert services[name]["read_only"] and services[name]["cap_drop"] == ["ALL"]
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in published} == {"127.0.0.1"} and len(published) == 3
    mounted = [
        Path(volume["source"])
        for service in services.values()
        for volume in service.get("volumes", [])
        if volume["type"] == "bind"
    ]
    assert len(mounted) == 4 and all(path.exists() for path in mounted)
