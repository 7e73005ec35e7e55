"""How a server ends; each in a process of its own."""

import contextlib
import http.client
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from serving.life import Life
from snapensemble.server_process import server_process
from tests.factories import encoded, picture
from tests.serving.test_server import connect, is_well

PNG = encoded(picture(1))


@contextlib.contextmanager
def half_sent(url: str) -> Iterator[http.client.HTTPConnection]:
    """A request that the server has accepted and cannot answer before the rest is sent."""
    with closing(connect(url)) as connection:
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", str(len(PNG)))
        connection.endheaders(PNG[:10])
        assert is_well(url)  # an answer over a later connection: this one has been accepted
        yield connection


def wait_until_stopping(url: str) -> httpx.Response:
    while (reply := httpx.get(f"{url}/health/ready")).status_code == 200:
        pass
    return reply


def test_a_life_drains_after_sigterm_only() -> None:
    drained, interrupted = Life(3600), Life(3600)
    assert not drained.stopping and not drained.over
    drained.stop(signal.SIGTERM)
    interrupted.stop(signal.SIGINT)
    assert drained.stopping and not drained.over
    assert interrupted.stopping and interrupted.over


def test_a_worker_may_hear_a_signal_twice() -> None:
    life = Life(3600, second_ends=False)
    for _ in range(3):
        life.stop(signal.SIGTERM)
    assert life.stopping and not life.over


def test_while_it_drains_it_is_alive_and_answers_but_is_not_ready(bundle_dir: Path) -> None:
    flags = ("--port", "0", "--drain-seconds", "3600")
    with server_process(bundle_dir, *flags) as (process, url), httpx.Client(base_url=url) as http:
        assert http.get("/health/ready").headers.get("connection") != "close"
        process.send_signal(signal.SIGTERM)
        reply = wait_until_stopping(url)
        assert reply.status_code == 503 and reply.json()["code"] == "stopping"
        assert int(reply.headers["retry-after"]) >= 1
        assert http.get("/health/live").status_code == 200
        answer = http.post("/predict", content=PNG)  # over a new connection
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM


def test_load_that_moves_on_when_it_is_not_ready_loses_nothing(bundle_dir: Path) -> None:
    moved_on = threading.Event()
    answered = threading.Semaphore(0)
    codes: list[int] = []
    errors: list[Exception] = []

    def ask(url: str) -> None:
        try:
            with httpx.Client(base_url=url) as http:
                while not moved_on.is_set():
                    codes.append(http.post("/predict", content=PNG).status_code)
                    answered.release()
        except Exception as error:
            errors.append(error)

    flags = ("--port", "0", "--drain-seconds", "6")
    with server_process(bundle_dir, *flags) as (process, url):
        clients = [threading.Thread(target=ask, args=(url,)) for _ in range(4)]
        for thread in clients:
            thread.start()
        for _ in range(20):
            assert answered.acquire(timeout=30)
        process.send_signal(signal.SIGTERM)
        wait_until_stopping(url)
        for _ in range(20):  # it goes on answering
            assert answered.acquire(timeout=30), errors
        moved_on.set()
        for thread in clients:
            thread.join(30)
        assert process.wait(30) == 0
    assert not errors and set(codes) == {200}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(bundle_dir: Path, signum: signal.Signals) -> None:
    with server_process(bundle_dir, "--port", "0") as (process, url), half_sent(url):
        process.send_signal(signal.SIGTERM)
        while not_refused(url):
            pass
        process.send_signal(signum)
        assert process.wait(30) == 128 + signum


def not_refused(url: str) -> bool:
    try:
        httpx.get(f"{url}/health/live")
    except httpx.TransportError:
        return False
    return True


def test_ctrl_c_skips_the_drain_and_answers_what_was_accepted(bundle_dir: Path) -> None:
    flags = ("--port", "0", "--drain-seconds", "3600")
    with server_process(bundle_dir, *flags) as (process, url), half_sent(url) as connection:
        process.send_signal(signal.SIGINT)
        connection.send(PNG[10:])
        reply = connection.getresponse()
        assert reply.status == 200 and json.loads(reply.read())["predictions"]
        assert process.wait(30) == 0
