"""Several containers behind the nginx configuration that the product ships."""

import os
from pathlib import Path

import pytest

from benchmarks.containers.balancers import NGINX
from benchmarks.containers.behind_nginx import soak
from benchmarks.random_members import PICTURES

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))


@pytest.mark.slow
@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_a_server_that_comes_and_goes_costs_no_request(
    image: str, bundle5: Path, tmp_path: Path
) -> None:
    found = soak(image, bundle5, tmp_path, PICTURES, seconds=SECONDS)
    assert found.outcome.lost == {}
    assert found.restarts >= 3 and found.outcome.answered > 1000
