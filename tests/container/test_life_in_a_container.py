"""Stopping under load, and memory that is not enough for everything at once."""

import threading
import time
from pathlib import Path

import httpx
import pytest

from benchmarks.containers.engine import Container, served
from benchmarks.containers.load import clients
from benchmarks.random_members import PICTURES
from benchmarks.serving.hostile import costliest
from tests.factories import encoded, picture

PROBE_PERIOD_S = 1.0


def wait_until_not_ready(url: str, not_ready: threading.Event) -> None:
    """Wait as a load balancer does, which asks now and then."""
    while httpx.get(f"{url}/health/ready").status_code == 200:
        time.sleep(PROBE_PERIOD_S)
    not_ready.set()


def test_stopping_under_load_loses_no_request(image: str, bundle5: Path) -> None:
    with served(image, bundle5, "--env=SNAPENSEMBLE_DRAIN_SECONDS=6") as container:
        not_ready = threading.Event()
        probe = threading.Thread(target=wait_until_not_ready, args=(container.url, not_ready))
        with clients(container.url, PICTURES, number=16, stop=not_ready) as outcome:
            probe.start()
            while outcome.answered < 100:  # the load is on
                time.sleep(0.01)
            assert container.stop() == 0
        probe.join()
    assert not_ready.is_set() and outcome.answered >= 100 and outcome.lost == {}


def test_512_mib_are_enough_for_five_resnets_under_load(server: Container) -> None:
    pictures = [*PICTURES, encoded(picture(9, width=800, height=600))]
    with clients(server.url, pictures, number=32) as outcome:
        while outcome.counts.total() < 1500:
            assert server.inspect("{{.State.Running}}") == "true"
    assert outcome.lost == {}
    assert_alive(server)


@pytest.mark.slow
def test_512_mib_are_enough_for_the_costliest_pictures_that_are_allowed(server: Container) -> None:
    # Memory is what counts here, however slow the machine is.
    with clients(server.url, costliest(), number=8, patience_s=600) as outcome:
        while outcome.answered < 12:
            assert server.inspect("{{.State.Running}}") == "true"
    assert set(outcome.lost) <= {"503"}  # too many take long, or too many bytes are held
    assert_alive(server)


def assert_alive(server: Container) -> None:
    assert server.inspect("{{.State.Running}} {{.State.OOMKilled}}") == "true false"
    assert server.inspect("{{.RestartCount}}") == "0"
    assert httpx.post(f"{server.url}/predict", content=PICTURES[0]).status_code == 200
