"""A cluster of one node with Ray Serve, once for all tests; and the product's own server."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from benchmarks.serving.behind_ray import Cluster, ray_cluster
from snapensemble.server_process import server_process
from tests.factories import linear_member, make_bundle


class Bundles(NamedTuple):
    """Two bundles of the same images, and one that cannot be served."""

    first: Path
    second: Path
    broken: Path


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    directory = tmp_path_factory.mktemp("bundles")
    made = [
        make_bundle(directory / str(first), [linear_member(first + seed) for seed in range(3)])
        for first in range(3)
    ]
    (made[2] / "members" / "cycle-01.onnx").write_bytes(b"not the file of the manifest")
    return Bundles(*made)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with ray_cluster() as cluster:
        yield cluster


@pytest.fixture
def behind_ray(cluster: Cluster, bundles: Bundles) -> Iterator[httpx.Client]:
    """A client of the first bundle behind Ray's proxy."""
    if cluster.bundle != bundles.first:
        cluster.deploy(bundles.first)
    with httpx.Client(base_url=cluster.url) as http:
        yield http


@pytest.fixture(scope="session")
def served(bundles: Bundles) -> Iterator[httpx.Client]:
    """A client of the first bundle as `snapensemble serve` answers for it."""
    with (
        server_process(bundles.first, "--port", "0") as (_, url),
        httpx.Client(base_url=url) as http,
    ):
        yield http
