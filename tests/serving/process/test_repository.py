"""Models that are loaded, switched and freed while requests are answered."""

import asyncio
import gc
import os
import shutil
import threading
import weakref
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from unittest import mock

import httpx
import numpy as np
import pytest
import pytest_asyncio
from fastapi import FastAPI

from snapensemble.contracts.errors import InvalidConfig, InvalidManifest
from snapensemble.serving.http.app import create_app
from snapensemble.serving.http.service import Service
from snapensemble.serving.inference.repository import plan
from snapensemble.serving.process import repository as module
from snapensemble.serving.process.repository import Refreshing, Repository, assembled
from snapensemble.serving.settings import Settings
from tests.factories import CLASSES, encoded, linear_member, make_bundle, picture
from tests.fakes import client

PNG = encoded(picture())
HEADERS = {"content-type": "image/png"}


def version(models: Path, name: str, number: int, classes: list[str] | None = None) -> Path:
    """A version whose only member differs from that of every other version."""
    seed = 100 * number + sum(name.encode())
    return make_bundle(
        models / name / str(number), [linear_member(seed)], classes=classes or CLASSES
    )


class Running:
    """An application whose models come from a directory."""

    def __init__(self, models: Path, settings: Settings) -> None:
        self.models = models
        self.app: FastAPI = create_app(settings, None)
        self.service: Service = self.app.state.service
        look = partial(plan, models, versions=settings.versions)
        self.repository = Repository(settings, self.service, look)
        self.repository.begin(look())

    async def answers(self, http: httpx.AsyncClient, path: str = "/predict/bees") -> list[float]:
        reply = await http.post(path, content=PNG, headers=HEADERS)
        assert reply.status_code == 200, reply.text
        return list(reply.json()["predictions"][0]["probabilities"])


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    version(tmp_path / "models", "bees", 1)
    version(tmp_path / "models", "ants", 1)
    running = Running(tmp_path / "models", Settings(model_control=True, threads=2))
    with running.repository:
        yield running
        await all_freed(running.repository)


async def all_freed(repository: Repository) -> None:
    while repository._retiring:
        await asyncio.gather(*repository._retiring)


async def test_every_model_is_reached_by_its_name_and_version(running: Running) -> None:
    async with client(running.app) as http:
        bees, ants = await running.answers(http), await running.answers(http, "/predict/ants")
        assert bees != ants
        assert await running.answers(http, "/predict/bees/1") == bees
        for path in ("/predict/wasps", "/predict/bees/2"):
            reply = await http.post(path, content=PNG, headers=HEADERS)
            assert reply.status_code == 404 and reply.json()["code"] == "unknown_model"
        reply = await http.post("/predict", content=PNG, headers=HEADERS)
        assert reply.status_code == 404 and "ants, version 1; bees, version 1" in reply.text


async def test_a_new_version_takes_over_and_the_old_one_is_freed(running: Running) -> None:
    (former,) = running.service.models["bees"].values()
    engine, gone = former.engine, weakref.ref(former.engine)
    async with client(running.app) as http:
        before = await running.answers(http)
        version(running.models, "bees", 2)
        await running.repository.refresh()
        assert await running.answers(http) != before
        assert await running.answers(http, "/predict/ants") != before
    assert list(running.service.models["bees"]) == ["2"]
    await all_freed(running.repository)
    assert engine.scheduler.closed
    gc.disable()  # it needs no collection, which would keep everybody waiting
    try:
        del former, engine
        assert gone() is None
    finally:
        gc.enable()


async def test_metrics_and_log_say_of_a_version_that_was_replaced_what_it_is_now(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "snapensemble")
    version(tmp_path, "bees", 1)
    running = Running(tmp_path, Settings(threads=2))
    with running.repository:
        shutil.rmtree(tmp_path / "bees" / "1")
        make_bundle(tmp_path / "bees" / "1")
        await running.repository.refresh()
        page = running.service.metrics.page().decode().splitlines()
        info = [line for line in page if line.startswith("snapensemble_model_info{")]
        assert sorted(line.split("members=")[1] for line in info) == [
            '"1",name="bees",version="1"} 0.0',
            '"3",name="bees",version="1"} 1.0',
        ]
        await all_freed(running.repository)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["serving bees 1", "the former bees 1 is no longer served"]


async def test_a_request_that_has_begun_is_answered_by_what_it_began_with(
    running: Running,
) -> None:
    (former,) = running.service.models["bees"].values()
    body_may_come = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield PNG[:10]
        await body_may_come.wait()
        yield PNG[10:]

    async with client(running.app) as http:
        before = await running.answers(http)
        late = asyncio.ensure_future(http.post("/predict/bees", content=body(), headers=HEADERS))
        while former.admission.requests == 0:
            await asyncio.sleep(0)
        version(running.models, "bees", 2)
        await running.repository.refresh()
        assert await running.answers(http) != before and not former.engine.scheduler.closed
        body_may_come.set()
        reply = await late
    assert reply.json()["model"]["version"] == "1"
    np.testing.assert_allclose(reply.json()["predictions"][0]["probabilities"], before)


async def test_a_bad_new_version_changes_nothing_and_says_why(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    async with client(running.app) as http:
        before = await running.answers(http)
        member = version(running.models, "bees", 2) / "members" / "cycle-00.onnx"
        member.write_bytes(member.read_bytes()[:-7])  # as if it were copied right now
        for _ in range(2):
            await running.repository.refresh()
        assert await running.answers(http) == before
        said = [record.message for record in caplog.records if "left as it was" in record.message]
        assert len(said) == 1 and "bees is left as it was" in said[0] and "cycle-00" in said[0]
        index = (await http.get("/v2/repository/index")).json()
        assert {"name": "bees", "version": "1", "state": "READY", "reason": ""} in index
        assert any(
            each["state"] == "UNAVAILABLE" and "cycle-00" in each["reason"] for each in index
        )
        reply = await http.post("/v2/repository/models/bees/load")
        assert reply.status_code == 422 and "cycle-00" in reply.json()["error"]
        shutil.rmtree(running.models / "bees" / "2")
        version(running.models, "bees", 2)
        await running.repository.refresh()
        assert await running.answers(http) != before
        assert len((await http.get("/v2/repository/index")).json()) == 2


@pytest.mark.parametrize("bad", ["ensemble.json", "members/cycle-00.onnx"])
async def test_of_several_versions_a_bad_one_leaves_all_as_they_were(
    tmp_path: Path, bad: str
) -> None:
    for number in (1, 2):
        version(tmp_path, "bees", number)
    running = Running(tmp_path, Settings(versions=2, threads=2))
    with running.repository:
        (version(tmp_path, "bees", 3) / bad).write_text("{}")
        version(tmp_path, "bees", 4)
        await running.repository.refresh()
        assert list(running.service.models["bees"]) == ["2", "1"]
        shutil.rmtree(tmp_path / "bees" / "3")
        await running.repository.refresh()
        assert list(running.service.models["bees"]) == ["4", "2"]
        await all_freed(running.repository)


async def test_one_bundle_that_turns_bad_is_served_on_and_it_is_said_why(tmp_path: Path) -> None:
    running = Running(make_bundle(tmp_path / "bundle"), Settings(model_control=True, threads=2))
    with running.repository:
        async with client(running.app) as http:
            before = await running.answers(http, "/predict")
            (running.models / "ensemble.json").write_text("{}")
            with pytest.raises(InvalidManifest, match="format is None"):
                await running.repository.refresh()
            assert await running.answers(http, "/predict/insects") == before
            reply = await http.post("/v2/repository/models/insects/load")
            assert reply.status_code == 422 and "format is None" in reply.json()["error"]
            ready, why = (await http.get("/v2/repository/index")).json()
            assert ready["state"] == "READY"
            assert why["name"] == "insects" and "format is None" in why["reason"]
            shutil.rmtree(running.models)
            make_bundle(running.models, [linear_member(4)])
            await running.repository.refresh()
            assert await running.answers(http, "/predict") != before
            assert len((await http.get("/v2/repository/index")).json()) == 1
        await all_freed(running.repository)


async def test_who_may_not_load_models_learns_no_place_on_the_disk(tmp_path: Path) -> None:
    models = tmp_path / "models"
    version(models, "bees", 1)
    running = Running(models, Settings(threads=2))
    with running.repository:
        (version(models, "bees", 2) / "members" / "cycle-00.onnx").unlink()
        await running.repository.refresh()
        async with client(running.app) as http:
            index = (await http.get("/v2/repository/index")).json()
    assert [each["reason"] for each in index] == ["", "the server's log says why"]


async def test_names_of_files_that_are_no_unicode_reach_clients_as_escapes(tmp_path: Path) -> None:
    models = tmp_path / os.fsdecode(b"mod\xe8les")
    version(models, "bees", 1)
    running = Running(models, Settings(model_control=True, threads=2))
    with running.repository:
        make_bundle(models / os.fsdecode(b"caf\xe9"))
        (version(models, "bees", 2) / "members" / "cycle-00.onnx").unlink()
        await running.repository.refresh()
        async with client(running.app) as http:
            index = (await http.get("/v2/repository/index")).json()
            reply = await http.post("/v2/repository/models/bees/load")
    why = {each["name"]: each["reason"] for each in index if each["reason"]}
    assert list(why) == ["bees", r"caf\udce9"]
    assert reply.status_code == 422
    assert all(r"mod\udce8les" in each for each in [*why.values(), reply.json()["error"]])


async def test_clients_unload_and_load(running: Running) -> None:
    async with client(running.app) as http:
        before = await running.answers(http)
        assert (await http.post("/v2/repository/models/bees/unload")).json() == {}
        assert (await http.post("/predict/bees", content=PNG, headers=HEADERS)).status_code == 404
        assert await running.answers(http, "/predict")  # ants are the only ones now
        await running.repository.refresh()  # does not bring them back
        assert list(running.service.models) == ["ants"]
        index = (await http.post("/v2/repository/index")).json()
        assert {
            "name": "bees",
            "version": "",
            "state": "UNAVAILABLE",
            "reason": "unloaded",
        } in index
        assert (await http.post("/v2/repository/models/bees/load")).json() == {}
        assert await running.answers(http) == before
        for change in ("load", "unload"):
            reply = await http.post(f"/v2/repository/models/wasps/{change}")
            assert reply.status_code == 404 and "wasps" in reply.json()["error"]


async def test_at_the_end_models_end_that_requests_still_need(tmp_path: Path) -> None:
    version(tmp_path, "bees", 1)
    running = Running(tmp_path, Settings())
    (model,) = running.service.all_models
    with running.repository, model.used():
        version(tmp_path, "bees", 2)
        await running.repository.refresh()
        assert not model.engine.scheduler.closed
    assert model.engine.scheduler.closed
    await all_freed(running.repository)


async def test_all_may_be_unloaded_and_loaded_again_and_the_server_stays_ready(
    running: Running,
) -> None:
    async with client(running.app) as http:
        for name in ("bees", "ants"):
            await http.post(f"/v2/repository/models/{name}/unload")
        await all_freed(running.repository)
        reply = await http.post("/predict", content=PNG, headers=HEADERS)
        assert reply.status_code == 404 and "none at all" in reply.text
        for path in ("/health/ready", "/v2/health/ready"):  # the load must still get here
            assert (await http.get(path)).status_code == 200
        await http.post("/v2/repository/models/bees/load")
        assert await running.answers(http)


async def test_a_model_whose_folder_has_gone_is_served_no_more(running: Running) -> None:
    shutil.rmtree(running.models / "bees")
    await running.repository.refresh()
    assert list(running.service.models) == ["ants"]


async def test_a_model_that_loses_its_bundle_and_not_its_folder_is_served_on(
    running: Running,
) -> None:
    async with client(running.app) as http:
        before = await running.answers(http)
        shutil.rmtree(running.models / "bees" / "1")  # as where another one is about to be copied
        await running.repository.refresh()
        assert await running.answers(http) == before
        assert "no bundle in it any more" in running.repository.missing()["bees"]
        reply = await http.post("/v2/repository/models/bees/load")
        assert reply.status_code == 422 and "remove the folder" in reply.json()["error"]
        version(running.models, "bees", 2)
        await running.repository.refresh()
        assert await running.answers(http) != before and not running.repository.missing()


@pytest.mark.parametrize(
    ("settings", "says"),
    [(Settings(), "--model-control"), (Settings(workers=2), "--model-control")],
)
async def test_strangers_cannot_change_what_is_served(
    tmp_path: Path, settings: Settings, says: str
) -> None:
    version(tmp_path, "bees", 1)
    running = Running(tmp_path, settings)
    with running.repository:
        async with client(running.app) as http:
            for change in ("load", "unload"):
                reply = await http.post(f"/v2/repository/models/bees/{change}")
                assert reply.status_code == 403 and "--model-control" in reply.json()["error"]


async def test_where_there_is_no_memory_for_a_new_version_the_old_one_stays(
    running: Running,
) -> None:
    version(running.models, "bees", 2)
    async with client(running.app) as http:
        before = await running.answers(http)
        with mock.patch.object(module, "load_engine", side_effect=MemoryError):
            await running.repository.refresh()
        assert await running.answers(http) == before


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (Settings(default_model="wasps"), "--default-model wasps: expected one of ants"),
        (Settings(shadow="wasps"), "--shadow wasps: expected one of ants"),
        (Settings(default_model="ants", shadow="ants"), "--shadow ants: this is the model that"),
        (Settings(shadow="ants"), "--shadow ants: 2 models are served.*add --default-model"),
    ],
)
async def test_settings_that_name_no_model_are_refused(
    running: Running, settings: Settings, says: str
) -> None:
    running.service.settings = settings
    with pytest.raises(InvalidConfig, match=says):
        running.service.check_settings()


async def test_a_worker_starts_though_what_settings_name_has_gone_since_the_server_did(
    tmp_path: Path,
) -> None:
    version(tmp_path, "bees", 1)
    settings, look = Settings(default_model="wasps"), partial(plan, tmp_path)
    with (
        pytest.raises(InvalidConfig, match="--default-model wasps"),
        assembled(look(), settings, look),
    ):
        pass
    later = look().model_copy(update={"number": 1})
    with assembled(later, settings, look) as server:
        assert list(server.service.models) == ["bees"]


async def test_a_change_is_made_when_asked_for_on_any_thread_and_after_one_that_fails() -> None:
    asked: list[int] = []

    async def change() -> None:
        asked.append(threading.get_ident())
        if len(asked) == 1:
            raise ZeroDivisionError

    refreshing = Refreshing(change, None)
    refreshing.want()  # before it runs
    running = asyncio.create_task(refreshing.run())
    for count in (1, 2, 3):
        while len(asked) < count:
            await asyncio.sleep(0)
        await asyncio.to_thread(refreshing.want)
    running.cancel()
    assert set(asked) == {threading.get_ident()}


async def test_what_is_watched_and_stays_wrong_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    looks = iter(["closed", "closed", "closed", None, "closed", "gone", "gone"])
    seen = asyncio.Event()

    async def change() -> None:
        problem = next(looks, "end")
        if problem == "end":
            seen.set()
            await asyncio.Event().wait()
        if problem is not None:
            raise InvalidManifest(problem)

    refreshing = Refreshing(change, every_s=0)
    running = asyncio.create_task(refreshing.run())
    await asyncio.wait_for(seen.wait(), 30)
    running.cancel()
    said = [record.getMessage().rpartition(" ")[2] for record in caplog.records]
    assert said == ["closed", "closed", "gone"]


async def test_what_stays_wrong_is_logged_whenever_somebody_asks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = 0

    async def change() -> None:
        nonlocal asked
        asked += 1
        if asked < 3:
            refreshing.want()
        raise InvalidManifest("closed")

    refreshing = Refreshing(change, None)
    refreshing.want()
    running = asyncio.create_task(refreshing.run())
    while asked < 3:
        await asyncio.sleep(0)
    running.cancel()
    assert [each.getMessage() for each in caplog.records] == 3 * ["nothing has changed: closed"]
