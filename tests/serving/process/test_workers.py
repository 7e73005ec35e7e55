"""Several processes behind one port."""

import contextlib
import http.client
import os
import shutil
import signal
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, Popen

import httpx
import pytest
from prometheus_client import Gauge

from snapensemble.bench.processes import family
from snapensemble.contracts.bundle import BUNDLE_FILE
from snapensemble.server_process import server_process
from snapensemble.serving.process.watchdog import CUT_OFF
from snapensemble.serving.telemetry.metrics import Metrics
from tests.factories import encoded, linear_member, make_bundle, picture
from tests.forks import run
from tests.serving.process.test_server import is_well
from tests.serving.test_shutdown import PNG, half_sent, not_refused, wait_until_stopping
from tests.waiting import wait_for

FLAGS = ("--port", "0", "--workers", "2", "--threads", "1")


@contextlib.contextmanager
def two_workers(bundle_dir: Path, *flags: str) -> Iterator[tuple["Popen[str]", str]]:
    with server_process(bundle_dir, *FLAGS, *flags) as (process, url):
        yield process, url


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """Process id of the parent, and URL."""
    bundle_dir = make_bundle(tmp_path_factory.mktemp("workers") / "bundle")
    with two_workers(bundle_dir) as (process, url):
        yield process.pid, url


def workers_of(pid: int) -> list[int]:
    return family(pid)[1:]


def replaced(process: "Popen[str]", former: Collection[int] = ()) -> None:
    """Wait until two workers run, none of them of the former ones."""
    wait_for(lambda: len(set(workers_of(process.pid)) - set(former)) >= 2, while_runs=process)


def owner(connection: http.client.HTTPConnection, workers: list[int]) -> int:
    """The worker that has accepted a connection."""
    ends = (connection.sock.getpeername(), connection.sock.getsockname())
    ports = [f":{port:04X}" for _, port in ends]  # both: others on this machine may have one
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    (inode,) = (row[9] for row in rows if [each[-5:] for each in row[1:3]] == ports)
    for worker in workers:
        for descriptor in Path(f"/proc/{worker}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(descriptor) == f"socket:[{inode}]":
                    return worker
    raise AssertionError("nobody has accepted this connection")


def held_by_both(
    stack: contextlib.ExitStack, url: str, pid: int
) -> list[tuple[http.client.HTTPConnection, int]]:
    """Half-sent requests, at least one at each of two workers, and who has it."""
    workers = workers_of(pid)
    held: list[tuple[http.client.HTTPConnection, int]] = []
    while len({worker for _, worker in held}) < 2:
        connection = stack.enter_context(half_sent(url))
        held.append((connection, owner(connection, workers)))
        assert len(held) < 500, "one worker gets every connection"
    return held


def metric(url: str, line: str) -> float:
    page = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return float(next(row.removeprefix(line) for row in page if row.startswith(f"{line} ")))


def has_counted(url: str, line: str, expected: float) -> bool:
    """Whether a counter, which may not have been counted yet, is there."""
    try:
        return metric(url, line) >= expected
    except StopIteration:
        return False


def test_what_any_of_them_counts_is_what_all_have_counted(server: tuple[int, str]) -> None:
    _, url = server
    with contextlib.ExitStack() as stack:
        held = held_by_both(stack, url, server[0])
        for connection, _ in held:
            connection.send(PNG[10:])
            assert connection.getresponse().status == 200
    expected = 2 * len(held)  # each came with one that showed it to be accepted
    for _ in range(6):
        assert metric(url, 'snapensemble_requests_total{code="200",route="/predict"}') == expected
    assert metric(url, "snapensemble_members_used_count") == expected
    assert metric(url, "snapensemble_queue_images") == 0
    labels = 'members="3",name="insects",version="0badcafe"'
    assert metric(url, f"snapensemble_model_info{{{labels}}}") == 1


def test_a_model_says_how_many_serve_it(server: tuple[int, str]) -> None:
    model = httpx.get(f"{server[1]}/model").json()
    assert (model["workers"], model["lanes"]) == (2, 1)


def test_one_that_is_killed_fails_its_own_requests_only_and_is_replaced(
    bundle_dir: Path,
) -> None:
    with two_workers(bundle_dir) as (process, url), contextlib.ExitStack() as stack:
        before = workers_of(process.pid)
        held = held_by_both(stack, url, process.pid)
        killed = held[0][1]
        os.kill(killed, signal.SIGKILL)
        for connection, worker in held:
            if worker == killed:
                with pytest.raises((OSError, http.client.HTTPException)):
                    connection.send(PNG[10:])
                    connection.getresponse()
            else:
                connection.send(PNG[10:])
                assert connection.getresponse().status == 200
        replaced(process, {killed})
        assert is_well(url)
        assert len(set(workers_of(process.pid)) & set(before)) == 1
        counted = metric(url, 'snapensemble_requests_total{code="200",route="/predict"}')
        assert counted >= len(held)  # what the dead one has counted stays
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_sigterm_drains_all_of_them(bundle_dir: Path) -> None:
    with (
        two_workers(bundle_dir, "--drain-seconds", "3") as (process, url),
        contextlib.ExitStack() as stack,
    ):
        workers = workers_of(process.pid)
        kept = [stack.enter_context(half_sent(url)) for _ in range(6)]
        process.send_signal(signal.SIGTERM)
        assert wait_until_stopping(url).json()["code"] == "stopping"
        for connection in kept:
            connection.send(PNG[10:])
            assert connection.getresponse().status == 200
        assert process.wait(30) == 0
        assert not any(map(is_alive, workers))


def test_a_signal_that_every_process_gets_still_ends_it_in_order(bundle_dir: Path) -> None:
    with two_workers(bundle_dir) as (process, url), half_sent(url) as connection:
        for pid in (*workers_of(process.pid), process.pid):  # as systemd does
            os.kill(pid, signal.SIGTERM)
        connection.send(PNG[10:])
        assert connection.getresponse().status == 200
        assert process.wait(30) == 0


def test_a_second_signal_ends_all_at_once(bundle_dir: Path) -> None:
    with two_workers(bundle_dir) as (process, url), half_sent(url):
        workers = workers_of(process.pid)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: not not_refused(url))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
        assert not any(map(is_alive, workers))


def test_they_end_when_their_parent_is_killed(bundle_dir: Path) -> None:
    with two_workers(bundle_dir) as (process, url):
        workers = workers_of(process.pid)
        (counts,) = counts_of(workers[0])
        assert list(counts.glob("*.db"))
        process.kill()
        process.wait(30)
        wait_for(lambda: not any(map(is_alive, workers)))
        assert not not_refused(url)
        assert not counts.exists()


def is_reaped(worker: int, parent: int) -> bool:
    return worker not in workers_of(parent)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_damaged_bundle_is_said_so_once(bundle_dir: Path) -> None:
    file = bundle_dir / "members" / "cycle-00.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    found = run("serve", bundle_dir, *FLAGS)
    assert found.returncode == 2 and found.stdout == ""
    assert found.stderr.count("cycle-00.onnx: sha256") == 1 and "Traceback" not in found.stderr


def test_a_taken_port_is_said_before_anything_is_loaded(
    server: tuple[int, str], bundle_dir: Path
) -> None:
    port = server[1].rpartition(":")[2]
    found = run("serve", bundle_dir, "--port", port, "--workers", "2")
    assert found.returncode == 2 and f"cannot listen on 127.0.0.1:{port}" in found.stderr


def test_every_gauge_says_how_those_of_several_workers_add_up() -> None:
    gauges = [m for m in vars(Metrics()).values() if isinstance(m, Gauge)]
    assert gauges
    for gauge in gauges:
        assert gauge._multiprocess_mode.startswith("live"), gauge._name


def test_workers_know_the_tokens_and_share_the_port_for_metrics(
    bundle_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "a-token-that-is-long-enough"
    monkeypatch.setenv("SNAPENSEMBLE_TOKENS", token)
    with two_workers(bundle_dir, "--metrics-port", "0") as (process, url):
        assert process.stdout is not None
        metrics_url = process.stdout.readline().strip().removeprefix("Metrics on ")
        answers = {}
        for given in (token, "*" * 16, None):
            headers = {} if given is None else {"authorization": f"Bearer {given}"}
            reply = httpx.post(f"{url}/predict", content=PNG, headers=headers)
            answers[given] = reply.status_code
        assert answers == {token: 200, "*" * 16: 401, None: 401}
        line = 'snapensemble_requests_total{code="401",route="/predict"}'
        assert metric(metrics_url.removesuffix("/metrics"), line) == 2


def test_workers_that_are_started_later_know_the_tokens_of_the_start(
    bundle_dir: Path, tmp_path: Path
) -> None:
    first, later = "a-token-that-is-long-enough", "another-token-that-comes-later"
    file = tmp_path / "tokens"
    file.write_text(first)
    with two_workers(bundle_dir, "--tokens-file", str(file)) as (process, url):
        file.write_text(later)
        former = set(workers_of(process.pid))
        for worker in former:
            os.kill(worker, signal.SIGKILL)
        replaced(process, former)
        headers = {"authorization": f"Bearer {first}"}
        assert httpx.get(f"{url}/model", headers=headers, timeout=120).status_code == 200
        headers = {"authorization": f"Bearer {later}"}
        assert httpx.get(f"{url}/model", headers=headers, timeout=120).status_code == 401


def test_many_requests_over_new_connections_are_all_answered(server: tuple[int, str]) -> None:
    for seed in range(20):
        reply = httpx.post(f"{server[1]}/predict", content=encoded(picture(seed)))
        assert reply.status_code == 200


def replaced_by_another(bundle_dir: Path) -> None:
    shutil.rmtree(bundle_dir)
    make_bundle(bundle_dir)
    file = bundle_dir / BUNDLE_FILE
    file.write_text(file.read_text().replace("0badcafe", "deadbeef"))


@pytest.mark.parametrize("become", [replaced_by_another, shutil.rmtree])
def test_another_bundle_in_its_place_is_never_served_beside_it(
    bundle_dir: Path, become: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    with two_workers(bundle_dir) as (process, url):
        become(bundle_dir)
        first, second = workers_of(process.pid)
        os.kill(first, signal.SIGKILL)
        said = ""
        while "a worker did not start: exit code 2" not in said:
            said += capfd.readouterr().err
            assert httpx.get(f"{url}/model").json()["version"] == "0badcafe"
        assert "serves insects 0badcafe" in said and "or start the server again" in said
        assert process.poll() is None and second in workers_of(process.pid)
        os.kill(second, signal.SIGKILL)  # now nobody is left who has it
        assert process.wait(30) == 2


def test_the_former_bundle_may_be_put_back(bundle_dir: Path, tmp_path: Path) -> None:
    with two_workers(bundle_dir) as (process, url):
        bundle_dir.rename(tmp_path / "away")
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        (tmp_path / "away").rename(bundle_dir)
        replaced(process)
        assert is_well(url)
        process.terminate()
        assert process.wait(30) == 0


def test_one_that_is_stopped_answers_and_ends_as_the_others(bundle_dir: Path) -> None:
    with two_workers(bundle_dir) as (process, url), contextlib.ExitStack() as stack:
        held = held_by_both(stack, url, process.pid)
        stopped = held[0][1]
        os.kill(stopped, signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        for connection, _ in held:
            connection.send(PNG[10:])
            assert connection.getresponse().status == 200
        assert process.wait(30) == 0


def test_one_that_is_stopped_again_and_again_is_killed_in_time(
    bundle_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with two_workers(bundle_dir, "--shutdown-timeout-s", "1") as (process, _):
        stopped, other = workers_of(process.pid)
        process.send_signal(signal.SIGTERM)
        while process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(stopped, signal.SIGSTOP)
        assert process.returncode == CUT_OFF
        assert not is_alive(stopped) and not is_alive(other)
    assert f"killed: worker {stopped}" in capfd.readouterr().err


def test_no_count_goes_back_and_no_file_piles_up_while_workers_die(bundle_dir: Path) -> None:
    line = 'snapensemble_requests_total{code="200",route="/predict"}'
    with two_workers(bundle_dir) as (process, url):
        (counts,) = counts_of(workers_of(process.pid)[0])
        wait_for(counts.joinpath("counter_0.db").exists)
        for asked in (1, 2):
            assert is_well(url)
            # It is counted when it has been answered.
            wait_for(partial(has_counted, url, line, asked))
            before = set(workers_of(process.pid))
            for worker in before:
                os.kill(worker, signal.SIGKILL)
            replaced(process, before)
            assert metric(url, line) == asked  # whoever has answered them
        assert is_well(url)
        names = {file.name.rpartition("_")[2] for file in counts.iterdir()}
        assert names == {"0.db", "1.db"}
        process.terminate()
        assert process.wait(30) == 0
        assert not counts.exists()


def counts_of(worker: int) -> list[Path]:
    command = Path(f"/proc/{worker}/cmdline").read_text().split("\0")
    return [Path(part) for part in command if "/snapensemble-" in part]


def test_an_end_in_order_leaves_nothing(bundle_dir: Path) -> None:
    with two_workers(bundle_dir) as (process, url):
        workers = workers_of(process.pid)
        (counts,) = counts_of(workers[0])
        assert is_well(url)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not any(map(is_alive, workers)) and not counts.exists()


def test_one_that_is_told_alone_to_end_takes_nobody_with_it(bundle_dir: Path) -> None:
    with two_workers(bundle_dir) as (process, url):
        told = workers_of(process.pid)[0]
        os.kill(told, signal.SIGTERM)
        while told in workers_of(process.pid):
            assert is_well(url)  # over a new connection each: the port is not shut
        replaced(process)
        assert is_well(url)
        process.terminate()
        assert process.wait(30) == 0


def changed(models: Path, number: int) -> Path:
    return make_bundle(models / "insects" / str(number), [linear_member(number)])


def version_of(url: str) -> str:
    # Workers that are killed may leave a request to those that start, however long that takes.
    headers = {"content-type": "image/png"}
    reply = httpx.post(f"{url}/predict", content=PNG, headers=headers, timeout=120)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["model"]["version"])


@pytest.mark.parametrize("flags", [("--port", "0"), FLAGS])
def test_a_hangup_without_a_terminal_serves_what_is_on_disk_now(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    changed(tmp_path / "models", 1)
    log = tmp_path / "log"
    with (
        log.open("w") as stderr,
        server_process(tmp_path / "models", *flags, stdin=DEVNULL, stderr=stderr) as found,
    ):
        process, url = found
        assert version_of(url) == "1"
        changed(tmp_path / "models", 2)
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: all(version_of(url) == "2" for _ in range(10)), while_runs=process)
        broken = changed(tmp_path / "models", 3) / BUNDLE_FILE
        broken.write_text("{}")
        process.send_signal(signal.SIGHUP)
        while "insects is left as it was" not in log.read_text():
            assert version_of(url) == "2"
        process.terminate()
        assert process.wait(30) == 0


def test_workers_that_are_started_later_serve_what_the_others_serve(tmp_path: Path) -> None:
    changed(tmp_path, 1)
    with server_process(tmp_path, *FLAGS, stdin=DEVNULL, stderr=DEVNULL) as (process, url):
        changed(tmp_path, 2)
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: version_of(url) == "2", while_runs=process)
        former = set(workers_of(process.pid))
        for worker in former:
            os.kill(worker, signal.SIGKILL)
            wait_for(partial(is_reaped, worker, process.pid))
        replaced(process, former)
        # The first answer of version 2 may have been that of a worker ahead of the others.
        wait_for(lambda: all(version_of(url) == "2" for _ in range(10)), while_runs=process)


def test_it_looks_by_itself_from_time_to_time(tmp_path: Path) -> None:
    changed(tmp_path, 1)
    with server_process(tmp_path, "--port", "0", "--watch", "1", stdin=DEVNULL, stderr=DEVNULL) as (
        process,
        url,
    ):
        changed(tmp_path, 2)
        wait_for(lambda: version_of(url) == "2", while_runs=process)
