"""A server process as it is deployed, and an interpreter that has the clients."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from snapensemble.server_process import server_process
from tests.factories import calibration_record, cascade_record, encoded, make_bundle, picture

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / ".venv-conformance" / "bin" / "python"
PICTURES = 3


class Served(NamedTuple):
    """A server, and what it is asked about."""

    url: str
    grpc: str  # host and port
    pictures: list[Path]
    expected: list[dict[str, Any]]  # what /predict answers


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    pytest.importorskip("grpc", reason="gRPC is not tried: pip install 'snapensemble[grpc]'")
    directory = tmp_path_factory.mktemp("conformance")
    bundle_dir = make_bundle(
        directory / "bundle",
        cascade=cascade_record((0.8, 0.5), (0.5, 0.3)),
        calibration=calibration_record(0.6),
    )
    pictures = [directory / f"{seed}.png" for seed in range(PICTURES)]
    for seed, file in enumerate(pictures):
        file.write_bytes(encoded(picture(seed)))
    with server_process(bundle_dir, "--port", "0", "--grpc-port", "0") as (process, url):
        assert process.stdout is not None
        address = process.stdout.readline().strip().removeprefix("gRPC on ")
        files = [("image", (file.name, file.read_bytes())) for file in pictures]
        answer = httpx.post(f"{url}/predict?members=true", files=files)
        yield Served(url, address, pictures, answer.json()["predictions"])


Run = Callable[..., Any]


@pytest.fixture(scope="session")
def run() -> Run:
    """Run a program of `clients` with its packages, and give what it prints as JSON."""

    def program(name: str, *arguments: object) -> Any:
        package = name.partition("_")[0]
        if not CLIENTS.exists():
            pytest.skip(
                f"{package} was NOT TRIED, as its client is not installed: make conformance"
            )
        file = Path(__file__).parent / "clients" / f"{name}.py"
        done = subprocess.run(
            [CLIENTS, "-P", file, *map(str, arguments)], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return program
