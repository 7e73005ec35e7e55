"""A real server on a real port, in a process of its own."""

import http.client
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from snapensemble.contracts.metrics import mean_probabilities
from snapensemble.predict import predict_with_bundle, predict_with_url
from snapensemble.server_process import ServerFailed, server_process
from tests.attacks.pictures import bmp
from tests.contracts.test_pixels import png_claiming
from tests.factories import encoded, make_bundle, picture
from tests.forks import run
from tests.serving.http.test_http import exact_MK


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, int]]:
    """URL, bundle and process id."""
    bundle_dir = make_bundle(tmp_path_factory.mktemp("server") / "bundle")
    with server_process(bundle_dir, "--port", "0") as (process, url):
        yield url, bundle_dir, process.pid


def connect(url: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)


def resident_kib(pid: int) -> int:
    """Most memory that the process ever held."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def test_it_answers_at_once_when_it_has_named_its_port(server: tuple[str, Path, int]) -> None:
    data = encoded(picture(3))
    (answer,) = httpx.post(f"{server[0]}/predict", content=data).json()["predictions"]
    expected_K = mean_probabilities(exact_MK(data))
    np.testing.assert_allclose(answer["probabilities"], expected_K, atol=1e-4)


def test_predict_gives_the_same_numbers_from_a_bundle_and_from_a_server(
    server: tuple[str, Path, int],
) -> None:
    url, bundle_dir, _ = server
    files = [Path(f"{seed}.png") for seed in range(7)]
    pictures = [encoded(picture(seed, width=30, height=20)) for seed in range(7)]
    here = predict_with_bundle(bundle_dir, files, pictures, top=2)
    there = predict_with_url(url, files, pictures, top=2)
    assert here["model"] == there["model"]
    for one, two in zip(here["predictions"], there["predictions"], strict=True):
        assert one.keys() == two.keys() and one["class"] == two["class"]
        np.testing.assert_allclose(one["probabilities"], two["probabilities"], atol=1e-6)
        assert one["uncertainty"] == pytest.approx(two["uncertainty"], abs=1e-6)
        assert len(one["top"]) == len(two["top"]) == 2


def test_a_gigabyte_is_refused_while_it_arrives_and_memory_stays_flat(
    server: tuple[str, Path, int],
) -> None:
    url, _, pid = server
    before = resident_kib(pid)
    parts = urlsplit(url)
    assert parts.hostname is not None
    chunk = b"100000\r\n" + b"x" * 2**20 + b"\r\n"
    sent = 0
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n",
        )
        try:
            while sent < 2**30:
                connection.sendall(chunk)
                sent += 2**20
        except OSError:
            pass  # the server has closed the connection
    assert sent < 2**27
    assert resident_kib(pid) - before < 100_000
    assert is_well(url)


def test_an_announced_gigabyte_is_refused_before_it_arrives(server: tuple[str, Path, int]) -> None:
    with closing(connect(server[0])) as connection:
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Type", "image/png")
        connection.putheader("Content-Length", str(2**30))
        connection.endheaders()
        reply = connection.getresponse()
        assert reply.status == 413 and json.loads(reply.read())["code"] == "body_too_large"


def test_a_client_that_listens_only_at_its_end_sees_why_it_was_refused(
    server: tuple[str, Path, int], tmp_path: Path
) -> None:
    large = b"x" * (20 * 2**20)
    for announced in (True, False):
        content = large if announced else iter([large[: 2**20]] * 20)
        reply = httpx.post(f"{server[0]}/predict", content=content)
        assert reply.json()["code"] == "body_too_large"
    (tmp_path / "large.png").write_bytes(large)
    found = run("predict", tmp_path / "large.png", "--url", server[0])
    assert found.returncode == 2 and "answered 413: the body has" in found.stderr


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        (b"GET /model HTTP/1.1\r\nHost: x\r\nX: ", b"y" * 2**20),
        (b"GET /", b"y" * 2**20),
        (b"GET /model HTTP/1.1\r\nHost: x\r\n", b"a: b\r\n" * 2**17),
        (
            b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"1\r\nx\r\n0\r\n",
            b"a: b\r\n" * 2**17,
        ),
    ],
    ids=["header", "path", "headers", "trailers"],
)
def test_a_head_without_an_end_is_refused(
    server: tuple[str, Path, int], head: bytes, tail: bytes
) -> None:
    url, _, pid = server
    before = resident_kib(pid)
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port), timeout=30) as connection:
        connection.sendall(head)
        with suppress(OSError):  # it closes while this still sends
            for _ in range(100):
                connection.sendall(tail)
        with suppress(ConnectionResetError):
            while connection.recv(65536):
                pass
    assert resident_kib(pid) - before < 20_000
    assert is_well(url)


def test_a_header_is_refused_by_its_size(server: tuple[str, Path, int]) -> None:
    assert httpx.get(f"{server[0]}/model", headers={"x": "y" * 30_000}).status_code == 200
    try:
        reply = httpx.get(f"{server[0]}/model", headers={"x": "y" * 2**20})
    except httpx.TransportError:
        return  # closed while it was still being sent
    assert reply.status_code == 431 and reply.json()["code"] == "head_too_large"


def test_a_client_that_would_like_another_protocol_keeps_its_body(
    server: tuple[str, Path, int],
) -> None:
    headers = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMA"}
    with httpx.Client(base_url=server[0]) as http:
        for _ in range(2):
            reply = http.post("/predict", content=encoded(picture(0)), headers=headers)
            assert reply.status_code == 200, reply.text


def test_a_bomb_costs_no_memory(server: tuple[str, Path, int]) -> None:
    url, _, pid = server
    before = resident_kib(pid)
    assert httpx.post(f"{url}/predict", content=png_claiming(10_000, 6_000)).status_code == 413
    assert resident_kib(pid) - before < 20_000


def is_well(url: str) -> bool:
    return httpx.post(f"{url}/predict", content=encoded(picture(0))).status_code == 200


def test_many_clients_each_get_their_own_answer(server: tuple[str, Path, int]) -> None:
    pictures = [encoded(picture(seed)) for seed in range(40)]
    answers: dict[int, list[float]] = {}

    def ask(first: int) -> None:
        with httpx.Client(base_url=server[0]) as http:
            for seed in range(first, 40, 8):
                (answer,) = http.post("/predict", content=pictures[seed]).json()["predictions"]
                answers[seed] = answer["probabilities"]

    clients = [threading.Thread(target=ask, args=(first,)) for first in range(8)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(30)
    for seed, data in enumerate(pictures):
        expected_K = mean_probabilities(exact_MK(data))
        np.testing.assert_allclose(answers[seed], expected_K, atol=1e-4)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(bundle_dir: Path, signum: signal.Signals) -> None:
    with server_process(bundle_dir, "--port", "0") as (process, url):
        assert is_well(url)
        process.send_signal(signum)
        assert process.wait(30) == 0


@pytest.mark.parametrize("flags", [(), ("--workers", "2", "--threads", "1")])
def test_a_hangup_ends_a_server_that_has_a_terminal(
    bundle_dir: Path, flags: tuple[str, ...]
) -> None:
    ours, theirs = pty.openpty()
    with server_process(bundle_dir, "--port", "0", *flags, stdin=theirs) as (process, url):
        assert is_well(url)
        process.send_signal(signal.SIGHUP)
        assert process.wait(30) == 0
    os.close(ours)
    os.close(theirs)


def test_a_signal_that_comes_at_once_is_not_lost(bundle_dir: Path) -> None:
    with server_process(bundle_dir, "--port", "0") as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_request_that_was_accepted_is_answered_after_sigterm(bundle_dir: Path) -> None:
    with server_process(bundle_dir, "--port", "0") as (process, url):
        data = encoded(picture(1))
        with closing(connect(url)) as connection:
            connection.putrequest("POST", "/predict")
            connection.putheader("Content-Length", str(len(data)))
            connection.endheaders(data[:10])
            # One answer over a later connection shows that the server has accepted this one.
            assert is_well(url)
            process.send_signal(signal.SIGTERM)
            connection.send(data[10:])
            assert connection.getresponse().status == 200
        assert process.wait(30) == 0


def test_idle_lanes_take_no_processor_time(server: tuple[str, Path, int]) -> None:
    is_well(server[0])

    def busy_seconds() -> float:
        fields = Path(f"/proc/{server[2]}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    before = busy_seconds()
    time.sleep(2)  # what is measured here is what happens while nothing happens
    assert busy_seconds() - before < 0.2


def test_a_log_that_nobody_reads_keeps_nobody_waiting(bundle_dir: Path) -> None:
    more_than_a_pipe_holds = 1000  # lines
    flags = ["--port", "0", "--access-log"]
    with server_process(bundle_dir, *flags, stderr=subprocess.PIPE) as (process, url):
        with httpx.Client(base_url=url) as http:
            for _ in range(more_than_a_pipe_holds):
                assert http.get("/health/live").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stderr is not None
        process.stderr.close()


def test_a_damaged_bundle_is_not_served(bundle_dir: Path) -> None:
    file = bundle_dir / "members" / "cycle-00.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    found = run("serve", bundle_dir, "--port", 0)
    assert found.returncode == 2 and "cycle-00.onnx: sha256" in found.stderr
    assert "Traceback" not in found.stderr and found.stdout == ""
    with pytest.raises(ServerFailed, match="exit code 2"), server_process(bundle_dir):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_greeting_that_cannot_be_written_is_said_in_one_line(bundle_dir: Path) -> None:
    command = [sys.executable, "-m", "snapensemble.cli", "serve", str(bundle_dir), "--port", "0"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    said = "snapensemble serve: the disk is full; free some space\n"
    assert done.stderr == said


def test_predict_prints_a_line_per_file_or_json(
    server: tuple[str, Path, int], tmp_path: Path
) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(encoded(picture(3)))
    lines = run("predict", file, file, "--url", server[0])
    assert lines.returncode == 0 and lines.stdout.count("a.png: ") == 2
    assert "3 members, disagreement" in lines.stdout
    one = json.loads(run("predict", file, "--bundle", server[1], "--json").stdout)
    assert one["model"]["name"] == "insects"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.png", "--bundle", "{bundle}"], "no.png: No such file"),
        (["{text}", "--bundle", "{bundle}"], "not an image"),
        (["{text}", "--url", "{url}"], "answered 422: not an image"),
        (["{png}", "--url", "http://127.0.0.1:9"], "is the server running?"),
        (["{png}", "--url", "ftp://x"], "expected something like http://"),
        (["{png}", "--bundle", "/no/bundle"], "made by `snapensemble export`"),
        (["{png}", "--bundle", "{bundle}", "--top", "-1"], "--top: expected a whole number"),
        (["{png}", "--url", "{url}", "--top", "-1"], "--top: expected a whole number"),
        (["{rle}", "--bundle", "{bundle}"], "run-length encoded"),
        (["{rle}", "--bundle", "{bundle}"], "or give --max-image-cost"),
        (["{rle}", "--bundle", "{bundle}", "--max-image-cost", "0"], "a number, from 1 to 10000"),
        (["{rle}", "--url", "{url}"], "answered 422: the BMP is run-length encoded"),
    ],
)
def test_predict_explains_what_is_wrong(
    server: tuple[str, Path, int], tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "png").write_bytes(encoded(picture(3)))
    (tmp_path / "rle").write_bytes(bmp(3_000, 3_000, 1, 8, b"\0\1"))
    names = {
        "bundle": server[1],
        "url": server[0],
        "text": tmp_path / "text",
        "png": tmp_path / "png",
        "rle": tmp_path / "rle",
    }
    found = run("predict", *(argument.format(**names) for argument in arguments))
    assert found.returncode == 2, found.stderr
    assert message in found.stderr and "Traceback" not in found.stderr
