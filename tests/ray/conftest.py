"""Clusters of two nodes on this machine, which `make test-ray` starts and ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.factories import encoded, make_bundle, picture

STORE_BYTES = 150 << 20
COUNT = 120


def pytest_configure(config: pytest.Config) -> None:
    """Ray's own test cluster leaves pipes and processes to the garbage collector."""
    for kind in ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning"):
        config.addinivalue_line("filterwarnings", f"ignore::{kind}")


class TwoNodes:
    """A cluster whose nodes have one processor and a place for temporary files each."""

    def __init__(self, directory: Path) -> None:
        from ray.cluster_utils import Cluster

        self.places = [directory / "head", directory / "second"]
        for place in self.places:
            place.mkdir()
        self._cluster = Cluster(
            initialize_head=True, head_node_args=self._node(0, include_dashboard=False)
        )
        self._second = self._cluster.add_node(**self._node(1))
        self.address: str = self._cluster.address

    def _node(self, place: int, **more: Any) -> dict[str, Any]:
        return {
            "num_cpus": 1,
            "object_store_memory": STORE_BYTES,
            "env_vars": {"TMPDIR": str(self.places[place])},
            **more,
        }

    def add_node(self, **node: Any) -> Any:
        """Start one more node."""
        return self._cluster.add_node(**{**self._node(1), **node})

    def remove_node(self, node: Any = None) -> None:
        """Kill a node, the second one if not given."""
        self._cluster.remove_node(self._second if node is None else node, allow_graceful=False)

    def shutdown(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()

    def bundles(self) -> list[list[str]]:
        """The directories of bundles, by node."""
        found = (place.glob("snapensemble-bundles-*/*/ensemble.json") for place in self.places)
        return [[each.parent.name for each in files] for files in found]


@pytest.fixture(scope="session", autouse=True)
def quiet_ray() -> Iterator[None]:
    """Nothing of an outer cluster counts, and nothing is sent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Workers would stand back behind all else, and starve where other tests run.
        patch.setenv("RAY_worker_niceness", "0")
        yield


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    """Two nodes for all tests of a file that kill none of them."""
    nodes = TwoNodes(tmp_path_factory.mktemp("nodes"))
    yield nodes
    nodes.shutdown()


@pytest.fixture
def mortal_cluster(tmp_path: Path) -> Iterator[TwoNodes]:
    """Two nodes for a test that kills one."""
    (tmp_path / "nodes").mkdir()
    nodes = TwoNodes(tmp_path / "nodes")
    yield nodes
    nodes.shutdown()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three linear members over noise."""
    return make_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in two folders, and one file that is none."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(COUNT):
        file = root / "ab"[number % 2] / f"{number:04d}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(encoded(picture(number)))
    (root / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return root


def started(*arguments: object) -> "subprocess.Popen[str]":
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "snapensemble.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def wait_while_running(
    process: "subprocess.Popen[str]", condition: Callable[[], bool], within_s: float = 200
) -> None:
    """Wait until something is so; fail if the command ends before, with what it has said."""
    end = time.monotonic() + within_s
    while not condition():
        assert process.poll() is None, ended(process, -1)
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.001)


def ended(process: "subprocess.Popen[str]", code: int = 0, within_s: float = 200) -> str:
    """What a command has said, once it has ended with an exit code."""
    try:
        out, said = process.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        raise
    assert process.returncode == code, said
    return said + out


def run(*arguments: object, code: int = 0) -> str:
    """What a command says until it ends with an exit code."""
    return ended(started(*arguments), code)
