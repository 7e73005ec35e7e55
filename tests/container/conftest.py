"""Images built from a fresh clone of this repository, once for all tests."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.containers.engine import Container, engine, served
from benchmarks.random_members import random_bundle

ROOT = Path(__file__).parents[2]
IMAGE = "snapensemble-serving-test"


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of what is committed, without anything else that lies about here."""
    directory = tmp_path_factory.mktemp("clone") / "snapensemble"
    subprocess.run(["git", "clone", "--quiet", ROOT, directory], check=True)
    return directory


@pytest.fixture(scope="session")
def image(clone: Path) -> str:
    """The image that `make image` builds in the clone."""
    environment = os.environ | {"IMAGE": IMAGE}
    subprocess.run(["make", "image"], cwd=clone, env=environment, check=True, timeout=900)
    return IMAGE


@pytest.fixture(scope="session")
def bundle5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of five ResNet-20, in a directory that any user may read."""
    directory = tmp_path_factory.mktemp("five")
    for part in (directory, *directory.parents[:2]):
        part.chmod(0o755)
    return random_bundle(directory / "bundle")


@pytest.fixture(scope="module")
def server(image: str, bundle5: Path) -> Iterator[Container]:
    """A server in a hardened container of 512 MiB and one processor."""
    with served(image, bundle5) as container:
        yield container


@pytest.fixture(scope="session", autouse=True)
def _an_engine_answers() -> None:
    """Say once what is missing, not in every test."""
    try:
        engine("version")
    except (OSError, AssertionError) as error:
        pytest.exit(f"no container engine answers, so nothing was tested: {error}", returncode=3)
