"""Runs with a trunk, for the tests of what is made of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.export.runs import staged_network, staged_run, write_images


@pytest.fixture(scope="module")
def staged(conversions: None) -> Iterator[None]:
    """The network with stages is known by name."""
    with staged_network():
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of the runs."""
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


@pytest.fixture(scope="module")
def star(staged: None, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three members behind the first three stages."""
    return staged_run(tmp_path_factory.mktemp("star") / "run", images)
