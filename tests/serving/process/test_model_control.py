"""Models that clients of one of several worker processes load and unload."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL, Popen

import httpx
import pytest

from snapensemble.server_process import server_process
from tests.factories import linear_member, make_bundle
from tests.serving.process.test_workers import FLAGS, held_by_both, replaced, workers_of
from tests.serving.test_shutdown import PNG

HEADERS = {"content-type": "image/png"}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("bees", "ants"):
        put(tmp_path / "models", name, 1)
    return tmp_path / "models"


def put(models: Path, name: str, version: int) -> Path:
    return make_bundle(models / name / str(version), [linear_member(version)])


@contextlib.contextmanager
def two_workers(models: Path, log: int = DEVNULL) -> Iterator[tuple["Popen[str]", str]]:
    flags = (*FLAGS, "--model-control", "--default-model", "ants")
    with server_process(models, *flags, stdin=DEVNULL, stderr=log) as (process, url):
        yield process, url


def change(url: str, word: str, model: str = "bees") -> httpx.Response:
    return httpx.post(f"{url}/v2/repository/models/{model}/{word}", timeout=60)


def bees_of_each(process: "Popen[str]", url: str) -> set[str]:
    """What the workers say of the bees: their version, or the code of the problem."""
    found: dict[int, str] = {}
    with contextlib.ExitStack() as stack:
        for connection, worker in held_by_both(stack, url, process.pid):
            connection.send(PNG[10:])  # the rest of a request to the default model
            connection.getresponse().read()
            connection.request("POST", "/predict/bees", PNG, HEADERS)
            reply = httpx.Response(200, content=connection.getresponse().read()).json()
            found[worker] = reply["code"] if "code" in reply else reply["model"]["version"]
    assert len(found) == 2
    return set(found.values())


def index(url: str) -> list[dict[str, str]]:
    entries: list[dict[str, str]] = httpx.get(f"{url}/v2/repository/index").json()
    return [entry for entry in entries if entry["name"] == "bees"]


def replace_a_worker(process: "Popen[str]") -> None:
    killed = workers_of(process.pid)[0]
    os.kill(killed, signal.SIGKILL)
    replaced(process, {killed})


def test_every_worker_serves_a_version_when_one_says_that_it_is_loaded(models: Path) -> None:
    with two_workers(models) as (process, url):
        for version in (2, 3):
            put(models, "bees", version)
            reply = change(url, "load")
            assert reply.status_code == 200 and reply.json() == {}
            assert bees_of_each(process, url) == {str(version)}
        replace_a_worker(process)
        assert bees_of_each(process, url) == {"3"}
        assert change(url, "load", "wasps").status_code == 404
        process.terminate()
        assert process.wait(30) == 0


def test_no_worker_serves_what_one_says_that_it_is_unloaded(models: Path) -> None:
    with two_workers(models) as (process, url):
        assert change(url, "unload").json() == {}
        assert bees_of_each(process, url) == {"unknown_model"}
        replace_a_worker(process)
        assert bees_of_each(process, url) == {"unknown_model"}
        unloaded = {"version": "", "state": "UNAVAILABLE", "reason": "unloaded"}
        assert index(url) == [{"name": "bees", **unloaded}]
        assert change(url, "load").json() == {}
        assert bees_of_each(process, url) == {"1"}


def test_a_bad_bundle_is_refused_and_workers_that_start_later_do_not_meet_it(
    models: Path,
) -> None:
    with two_workers(models) as (process, url):
        member = put(models, "bees", 2) / "members" / "cycle-00.onnx"
        member.write_bytes(member.read_bytes()[:-7])
        reply = change(url, "load")
        assert reply.status_code == 422 and "cycle-00.onnx" in reply.json()["error"]
        assert bees_of_each(process, url) == {"1"}
        ready, why = index(url)
        assert ready["version"] == "1" and "cycle-00.onnx" in why["reason"]
        replace_a_worker(process)
        assert bees_of_each(process, url) == {"1"}
