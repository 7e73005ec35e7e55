"""How a server ends; each in a process of its own."""

import contextlib
import errno
import http.client
import json
import select
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from socket import SO_ERROR, SOL_SOCKET
from urllib.parse import urlsplit

import httpx
import pytest

from snapensemble.server_process import server_process
from snapensemble.serving.process.sockets import at_the_door, is_shut, shut
from snapensemble.serving.shutdown import Shutdown
from tests.factories import encoded, picture
from tests.serving.process.test_server import connect, is_well
from tests.waiting import wait_for

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
    drained, interrupted = Shutdown(3600), Shutdown(3600)
    assert not drained.stopping and not drained.over
    drained.stop(signal.SIGTERM)
    interrupted.stop(signal.SIGINT)
    assert drained.stopping and not drained.over
    assert interrupted.stopping and interrupted.over


def test_a_worker_may_hear_a_signal_twice() -> None:
    shutdown = Shutdown(3600, second_ends=False)
    for _ in range(3):
        shutdown.stop(signal.SIGTERM)
    assert shutdown.stopping and not shutdown.over


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
        wait_for(lambda: not not_refused(url))
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


def test_under_nohup_a_hangup_means_nothing(bundle_dir: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a child inherits that
    try:
        with server_process(bundle_dir, "--port", "0") as (process, url):
            process.send_signal(signal.SIGHUP)
            assert is_well(url) and process.poll() is None
            assert httpx.get(f"{url}/health/ready").status_code == 200
    finally:
        signal.signal(signal.SIGHUP, before)


def fate_of_a_connection(host: str, port: int, request: bytes) -> str:
    """What becomes of one: `answered`, `refused`, or how it was lost."""
    with socket.socket() as connection:
        connection.settimeout(60)
        try:
            connection.connect((host, port))
        except ConnectionRefusedError:
            return "refused"
        try:
            connection.sendall(request)
            head = connection.recv(65536)
            while connection.recv(65536):
                pass
        except OSError as error:
            return f"lost: {type(error).__name__}"
        return "answered" if head.startswith(b"HTTP/1.1 200 ") else f"lost: {head[:40]!r}"


@pytest.mark.parametrize("flags", [(), ("--workers", "2", "--threads", "1")])
def test_who_has_connected_is_answered_and_nobody_is_reset(
    bundle_dir: Path, flags: tuple[str, ...]
) -> None:
    request = (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    )
    request = request % len(PNG) + PNG
    fates: Counter[str] = Counter()
    under_way = threading.Semaphore(0)

    def ask_without_pause(host: str, port: int) -> None:
        fate = "answered"
        while fate == "answered":
            fate = fate_of_a_connection(host, port, request)
            fates[fate] += 1
            under_way.release()

    with server_process(bundle_dir, "--port", "0", *flags) as (process, url):
        parts = urlsplit(url)
        address = (parts.hostname, parts.port)
        clients = [threading.Thread(target=ask_without_pause, args=address) for _ in range(32)]
        for thread in clients:
            thread.start()
        for _ in range(200):
            assert under_way.acquire(timeout=30)
        process.send_signal(signal.SIGTERM)
        for thread in clients:
            thread.join(60)
        assert process.wait(30) == 0
    assert fates["refused"] == len(clients) and fates["answered"] >= 100, fates
    assert set(fates) == {"answered", "refused"}, fates


def test_who_is_at_the_door_when_the_port_is_shut_is_still_let_in() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as late:
        assert not is_shut(listener) and at_the_door(listener) == 0
        waiting = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        shut(listener)
        assert is_shut(listener) and at_the_door(listener) == 3
        late.setblocking(False)
        with pytest.raises(BlockingIOError):
            late.connect(listener.getsockname())
        for client in waiting:
            accepted, _ = listener.accept()
            accepted.sendall(b"welcome")
            assert client.recv(7) == b"welcome"
            accepted.close()
            client.close()
        assert at_the_door(listener) == 0  # nor has the late one come in
        listener.close()
        _, writable, _ = select.select([], [late], [], 30)  # when it has asked again
        assert writable and late.getsockopt(SOL_SOCKET, SO_ERROR) == errno.ECONNREFUSED


def test_who_has_come_in_and_not_asked_yet_is_given_a_moment(bundle_dir: Path) -> None:
    with (
        server_process(bundle_dir, "--port", "0") as (process, url),
        closing(connect(url)) as connection,
    ):
        connection.connect()
        assert is_well(url)  # over a later connection: this one has been accepted
        process.send_signal(signal.SIGTERM)
        connection.request("POST", "/predict", PNG)
        reply = connection.getresponse()
        assert reply.status == 200 and reply.headers["connection"] == "close"
        reply.read()
        assert process.wait(30) == 0


@pytest.mark.parametrize("said", [b"", b"POST /predict HTTP/1.1\r\nHost"])
def test_a_client_that_goes_on_saying_nothing_keeps_nobody(bundle_dir: Path, said: bytes) -> None:
    flags = ("--port", "0", "--shutdown-timeout-s", "3600")
    with server_process(bundle_dir, *flags) as (process, url), closing(connect(url)) as connection:
        connection.connect()
        connection.sock.sendall(said)
        assert is_well(url)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize("flags", [(), ("--workers", "2", "--threads", "1")])
def test_a_request_that_never_ends_is_cut_off_at_the_end_of_its_time(
    bundle_dir: Path, flags: tuple[str, ...]
) -> None:
    flags = ("--port", "0", "--shutdown-timeout-s", "1", "--body-timeout-s", "3600", *flags)
    with server_process(bundle_dir, *flags) as (process, url), half_sent(url):
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_nobody_at_the_port_for_metrics_puts_the_end_off(bundle_dir: Path) -> None:
    flags = ("--port", "0", "--metrics-port", "0", "--shutdown-timeout-s", "3600")
    with server_process(bundle_dir, *flags) as (process, _):
        assert process.stdout is not None
        url = process.stdout.readline().strip().removeprefix("Metrics on ")
        with closing(connect(url)) as asking, closing(connect(url)) as silent:
            asking.connect()
            asking.sock.sendall(b"GET /metrics HTTP/1.1\r\nHost")
            silent.connect()
            assert httpx.get(url).status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
