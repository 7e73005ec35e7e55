"""A second model that is asked beside the default one, and hurts nobody."""

import asyncio
import shutil
from math import prod
from pathlib import Path
from unittest import mock

from snapensemble.serving.inference.session import TOO_MANY
from snapensemble.serving.settings import Settings
from tests.factories import CLASSES, CONTRACT, linear_member, make_bundle
from tests.fakes import client
from tests.serving.process.test_repository import PNG, Running, all_freed, version


async def test_a_shadow_is_asked_and_counted_and_answers_nobody(tmp_path: Path) -> None:
    version(tmp_path, "bees", 1)
    shutil.copytree(tmp_path / "bees", tmp_path / "twins")
    version(tmp_path, "names", 1, [name.upper() for name in CLASSES])
    for shadow, result in (("twins", "agrees"), ("names", "differs")):
        settings = Settings(default_model="bees", shadow=shadow, shadow_share=1.0)
        running = Running(tmp_path, settings)
        with running.repository:
            async with client(running.app) as http:
                expected = await running.answers(http, "/predict/bees")
                assert await running.answers(http, "/predict") == expected
                counted = running.service.metrics.shadow.labels(result)._value
                while counted.get() < 2:
                    await asyncio.sleep(0)
                assert await running.answers(http, f"/predict/{shadow}")  # asked by its name
            model = running.service.model(shadow)
            await asyncio.wait_for(model.free(), 30)
            assert counted.get() == 2
            assert model.admission.memory.held == 0


async def test_a_shadow_that_is_not_there_hurts_nobody(tmp_path: Path) -> None:
    version(tmp_path, "bees", 1)
    settings = Settings(default_model="bees", shadow="wasps", shadow_share=1.0)
    running = Running(tmp_path, settings)
    with running.repository:
        async with client(running.app) as http:
            assert await running.answers(http, "/predict")
            counted = running.service.metrics.shadow.labels("not_asked")._value
            while counted.get() < 1:
                await asyncio.sleep(0)


async def test_a_shadow_hurts_no_other_model_where_the_default_one_has_gone(tmp_path: Path) -> None:
    for name in ("bees", "ants", "wasps"):
        version(tmp_path, name, 1)
    running = Running(tmp_path, Settings(default_model="bees", shadow="wasps", shadow_share=1.0))
    with running.repository:
        shutil.rmtree(tmp_path / "bees")
        await running.repository.refresh()
        async with client(running.app) as http:
            assert await running.answers(http, "/predict/ants")
            assert await running.answers(http, "/predict/wasps")
        await all_freed(running.repository)


async def test_pictures_for_a_shadow_count_until_their_request_is_over(tmp_path: Path) -> None:
    for name in ("bees", "ants"):
        version(tmp_path, name, 1)
    running = Running(tmp_path, Settings(default_model="bees", shadow="ants", shadow_share=1.0))
    shadow, model = running.service.shadow, running.service.model()
    memory, pictures = model.admission.memory, [PNG, PNG]
    assert shadow is not None
    with running.repository:
        for is_room in (True, False):
            with model.admission.request() as request:
                request.hold(2 * len(PNG))
                copies = shadow.copies(model, pictures)
                request.accept(list(pictures))
                if not is_room:
                    memory.limit = 4 * len(PNG) - 1
                assert shadow.held(request, copies) == (copies if is_room else None)
                assert memory.held == (4 if is_room else 2) * len(PNG)
            assert memory.held == 0
    assert running.service.metrics.shadow.labels("not_asked")._value.get() == 2


async def test_a_shadow_of_another_size_is_asked_about_pictures_and_not_about_pixels(
    tmp_path: Path,
) -> None:
    version(tmp_path, "bees", 1)
    large = CONTRACT.model_copy(update={"height": 12, "width": 10})
    make_bundle(tmp_path / "large", [linear_member(1, contract=large)], image=large)
    running = Running(tmp_path, Settings(default_model="bees", shadow="large", shadow_share=1.0))
    shape = [1, *CONTRACT.shape]
    pixels = {"name": "images", "datatype": "UINT8", "shape": shape, "data": [7] * prod(shape)}
    with running.repository:
        async with client(running.app) as http:
            for _ in range(TOO_MANY):
                reply = await http.post("/v2/models/bees/infer", json={"inputs": [pixels]})
                assert reply.status_code == 200
            counted = running.service.metrics.shadow.labels
            while counted("not_asked")._value.get() < TOO_MANY:
                await asyncio.sleep(0)
            assert (await http.get("/health/ready")).status_code == 200
            await running.answers(http, "/predict")
            while sum(counted(each)._value.get() for each in ("agrees", "differs")) < 1:
                await asyncio.sleep(0)


async def test_a_shadow_whose_member_fails_leaves_the_server_ready(tmp_path: Path) -> None:
    for name in ("bees", "ants"):
        version(tmp_path, name, 1)
    running = Running(tmp_path, Settings(default_model="bees", shadow="ants"))
    with running.repository:
        async with client(running.app) as http:
            for name, status in (("ants", 200), ("bees", 503)):
                health = running.service.model(name).engine.health
                with mock.patch.object(health, "_failures", {0: TOO_MANY}):
                    assert (await http.get("/health/ready")).status_code == status
