"""Debian's Prometheus with the configuration that the product ships, at a real server."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from benchmarks.children import ended
from benchmarks.containers.behind_nginx import free_ports
from benchmarks.containers.engine import Container
from benchmarks.containers.load import clients
from benchmarks.random_members import PICTURES
from tests.docker.test_files import DOCKER, RULE

NOT_INSTALLED = shutil.which("prometheus") is None
pytestmark = pytest.mark.skipif(NOT_INSTALLED, reason="prometheus is not installed")
FILES = DOCKER / "prometheus"


@contextmanager
def prometheus(directory: Path, target: str) -> Iterator[httpx.Client]:
    """A Prometheus with the shipped configuration, but for the target and the pace."""
    text = (FILES / "prometheus.yml").read_text()
    assert text.count("serve:8000") == 1 and text.count("15s") == 2
    (directory / "prometheus.yml").write_text(
        text.replace("serve:8000", target).replace("15s", "1s")
    )
    shutil.copy(FILES / "alerts.yml", directory)
    (port,) = free_ports(1)
    command = [
        "prometheus", f"--config.file={directory}/prometheus.yml", "--log.level=error",
        f"--storage.tsdb.path={directory}/data", f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (
        ended(subprocess.Popen(command)) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        wait_until_ready(http, process)
        yield http


def wait_until_ready(http: httpx.Client, process: "subprocess.Popen[bytes]") -> None:
    """Wait until it answers queries: its port is open before its storage is."""
    deadline, seen = time.monotonic() + 60, "nothing"
    while seen != "200":
        assert process.poll() is None, f"Prometheus ended with exit code {process.returncode}"
        assert time.monotonic() < deadline, f"Prometheus is not ready within a minute: {seen}"
        time.sleep(0.1)
        try:
            seen = f"{http.get('/-/ready').status_code}"
        except httpx.TransportError as error:
            seen = f"{error!r}"


def value_of(http: httpx.Client, query: str) -> float | None:
    answer = http.get("/api/v1/query", params={"query": query})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    result = found["data"]["result"]
    return float(result[0]["value"][1]) if result else None


def test_promtool_takes_the_configuration() -> None:
    for command in (["config", "prometheus.yml"], ["rules", "alerts.yml"]):
        subprocess.run(["promtool", "check", *command], cwd=FILES, check=True)


def test_the_autoscalers_query_gives_the_wait_of_a_loaded_server(
    server: Container, tmp_path: Path
) -> None:
    query = RULE["metricsQuery"]
    for name, value in {"GroupBy": "instance", "LabelMatchers": 'job="snapensemble"'}.items():
        query = query.replace(f"<<.{name}>>", value)
    target = urlsplit(server.url).netloc
    with prometheus(tmp_path, target) as http, clients(server.url, PICTURES, number=32):
        deadline = time.monotonic() + 60
        while not (wait := value_of(http, query)):
            assert time.monotonic() < deadline, "no value within a minute"
            time.sleep(0.2)
        assert 0 < wait < 10
        alerts = http.get("/api/v1/rules").json()["data"]["groups"][0]["rules"]
        assert len(alerts) == 4 and all(rule["health"] != "err" for rule in alerts)
