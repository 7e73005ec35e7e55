"""What workers are to serve, and what they do about it, without processes."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from snapensemble.contracts.errors import InvalidManifest
from snapensemble.serving.errors import LoadFailed, UnknownModel, WorkersLate
from snapensemble.serving.inference.repository import plan
from snapensemble.serving.process.channel import FromWorker, Parent, plan_of
from snapensemble.serving.process.plans import Plans
from tests.factories import linear_member, make_bundle


class Worker:
    """Follows what it is told, as far as it may."""

    def __init__(self, plans: Plans, refuses: str = "none", *, follows: bool = True) -> None:
        self._plans = plans
        self._refuses = refuses
        self.follows = follows
        self.serves: dict[str, str] = {}
        self.told = asyncio.Event()
        self._hears, self._says = os.pipe()
        self.parent: Parent | None = None
        follower = plans.join(self._take)
        self._ready = partial(plans.is_ready, follower)

    def _take(self, line: bytes) -> None:
        if self.parent is None:
            self.parent = Parent(plan_of(line), self._says)
            self.serves = self._versions()
        else:
            self.parent.hear(line)

    async def begin(self) -> "Worker":
        assert self.parent is not None
        self.parent.say_ready()
        assert await self._ready(await FromWorker.on(self._hears), os.getpid())
        self.parent.told_to(self.follow)
        return self

    def _versions(self) -> dict[str, str]:
        assert self.parent is not None
        return {each.name: each.version for each in self.parent.look().models}

    def follow(self) -> None:
        self.told.set()
        if self.follows:
            assert self.parent is not None
            new = self._versions()
            refused = {name: "too large" for name, v in new.items() if v == self._refuses}
            former = {name: self.serves[name] for name in refused if name in self.serves}
            self.serves = {k: v for k, v in new.items() if k not in refused} | former
            self.parent.followed(self.parent.look(), refused)

    async def load(self, name: str) -> None:
        assert self.parent is not None
        await asyncio.wait_for(self.parent.load(name), 30)

    async def unload(self, name: str) -> None:
        assert self.parent is not None
        await asyncio.wait_for(self.parent.unload(name), 30)

    def missing(self) -> dict[str, str]:
        assert self.parent is not None
        return self.parent.missing()

    def end(self) -> None:
        if self._says >= 0:
            os.close(self._says)
            self._says = -1


Start = Callable[..., Coroutine[Any, Any, Worker]]


@asynccontextmanager
async def workers_of(plans: Plans) -> AsyncIterator[Start]:
    with contextlib.ExitStack() as stack:

        async def start(refuses: str = "none", *, follows: bool = True) -> Worker:
            worker = Worker(plans, refuses, follows=follows)
            stack.callback(worker.end)
            return await worker.begin()

        yield start
    while plans._followers:  # until it has heard that they have ended
        await asyncio.sleep(0)


def put(models: Path, name: str, version: int) -> None:
    make_bundle(models / name / str(version), [linear_member(version)])


@pytest.fixture
def models(tmp_path: Path) -> Path:
    put(tmp_path, "bees", 1)
    put(tmp_path, "ants", 1)
    return tmp_path


async def load_that_waits_for(slow: Worker, asked: Worker) -> "asyncio.Task[None]":
    """A load of the bees of which the slow worker has heard, and which it does not follow."""
    slow.follows = False
    slow.told.clear()
    loading = asyncio.create_task(asked.load("bees"))
    await asyncio.wait_for(slow.told.wait(), 30)
    return loading


BOTH = {"ants": "1", "bees": "1"}
NEW = {"ants": "1", "bees": "2"}


async def test_a_load_is_answered_when_every_worker_has_followed(models: Path) -> None:
    async with workers_of(Plans(partial(plan, models))) as start:
        asked, slow = await start(), await start()
        put(models, "bees", 2)
        loading = await load_that_waits_for(slow, asked)
        while asked.serves != NEW:
            await asyncio.sleep(0)
        assert not loading.done()
        slow.follows = True
        slow.follow()
        await loading
        assert slow.serves == NEW


async def test_what_a_worker_refuses_changes_none_and_is_said_once(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plans = Plans(partial(plan, models))
    async with workers_of(plans) as start:
        asked, full = await start(), await start(refuses="2")
        put(models, "bees", 2)
        put(models, "ants", 3)
        with pytest.raises(LoadFailed, match="too large"):
            await asked.load("bees")
        assert asked.serves == full.serves == BOTH  # nor has what nobody has asked for
        assert asked.missing() == full.missing() == {"bees": "too large"}
        for _ in range(2):  # a look takes what is good, and tries the other again
            await plans.refresh()
        assert asked.serves == full.serves == {"ants": "3", "bees": "1"}
        later = await start()
        assert later.serves == asked.serves
        assert [r.message for r in caplog.records] == ["bees is left as it was: too large"]
        shutil.rmtree(models / "bees" / "2")
        put(models, "bees", 4)
        await plans.refresh()
        assert asked.serves == full.serves == {"ants": "3", "bees": "4"} and not asked.missing()


async def test_a_bundle_that_is_bad_on_disk_is_loaded_by_nobody_and_said_once(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with workers_of(Plans(partial(plan, models))) as start:
        asked, other = await start(), await start()
        put(models, "bees", 2)
        (models / "bees" / "2" / "ensemble.json").write_text("{}")
        for _ in range(2):
            with pytest.raises(LoadFailed, match=r"bees/2/ensemble\.json"):
                await asked.load("bees")
        assert asked.serves == other.serves == BOTH
        for worker in (asked, other):
            assert "format is None" in worker.missing()["bees"]
        (record,) = caplog.records
        assert "bees is left as it was" in record.message


async def test_one_bundle_that_turns_bad_is_served_on_by_all_workers(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    plans = Plans(partial(plan, bundle))
    async with workers_of(plans) as start:
        asked = await start()
        (bundle / "ensemble.json").write_text("{}")
        with pytest.raises(InvalidManifest, match="format is None"):
            await plans.refresh()
        with pytest.raises(LoadFailed, match="format is None"):
            await asked.load("insects")
        assert asked.serves == {"insects": "0badcafe"}
        assert "format is None" in asked.missing()["insects"]
        shutil.rmtree(bundle)
        make_bundle(bundle, [linear_member(4)])
        await plans.refresh()
        assert asked.serves == {"insects": "0badcafe"} and not asked.missing()


async def test_a_model_that_loses_its_bundle_and_not_its_folder_is_served_on_by_all(
    models: Path,
) -> None:
    plans = Plans(partial(plan, models))
    async with workers_of(plans) as start:
        asked = await start()
        shutil.rmtree(models / "bees" / "1")
        await plans.refresh()
        assert asked.serves == BOTH and "no bundle in it any more" in asked.missing()["bees"]
        put(models, "bees", 2)
        await plans.refresh()
        assert asked.serves == NEW and not asked.missing()
        shutil.rmtree(models / "bees")
        await plans.refresh()
        assert asked.serves == {"ants": "1"}


async def test_unknown_models_are_neither_loaded_nor_unloaded(models: Path) -> None:
    async with workers_of(Plans(partial(plan, models))) as start:
        asked = await start()
        for change in (asked.load, asked.unload):
            with pytest.raises(UnknownModel, match="wasps"):
                await change("wasps")


async def test_what_was_unloaded_comes_back_by_load_only(models: Path) -> None:
    plans = Plans(partial(plan, models))
    async with workers_of(plans) as start:
        asked, other = await start(), await start()
        await asked.unload("bees")
        assert asked.serves == other.serves == {"ants": "1"}
        assert other.missing() == {"bees": "unloaded"}
        put(models, "ants", 2)
        await plans.refresh()
        later = await start()
        assert other.serves == later.serves == {"ants": "2"}
        await other.load("bees")
        assert asked.serves == other.serves == later.serves == {"ants": "2", "bees": "1"}
        assert other.missing() == {}


async def test_what_was_unloaded_stays_so_where_a_worker_refuses_it(models: Path) -> None:
    plans = Plans(partial(plan, models))
    async with workers_of(plans) as start:
        asked, full = await start(), await start(refuses="2")
        await asked.unload("bees")
        put(models, "bees", 2)
        with pytest.raises(LoadFailed, match="too large"):
            await asked.load("bees")
        await plans.refresh()
        assert asked.serves == full.serves == {"ants": "1"}
        assert asked.missing() == {"bees": "unloaded"}


async def test_one_that_starts_meanwhile_is_waited_for_and_ends_with_the_same(
    models: Path,
) -> None:
    async with workers_of(Plans(partial(plan, models))) as start:
        asked, slow = await start(), await start()
        put(models, "bees", 2)
        loading = await load_that_waits_for(slow, asked)
        starting = await start(follows=False)
        slow.follows = True
        slow.follow()
        other = asyncio.create_task(slow.load("ants"))  # waits for the first
        while asked.serves != NEW:
            await asyncio.sleep(0)
        assert starting.serves == BOTH and not loading.done()
        starting.follows = True
        starting.follow()
        await loading
        assert starting.serves == NEW
        await other


async def test_one_that_dies_is_not_waited_for(models: Path) -> None:
    async with workers_of(Plans(partial(plan, models))) as start:
        asked, dying = await start(), await start()
        put(models, "bees", 2)
        loading = await load_that_waits_for(dying, asked)
        dying.end()
        await loading
        assert (await start()).serves == NEW


async def test_one_that_is_late_is_said_so_and_follows_when_it_can(models: Path) -> None:
    async with workers_of(Plans(partial(plan, models), limit_s=1.0)) as start:
        asked, late = await start(), await start()
        put(models, "bees", 2)
        late.follows = False
        with pytest.raises(
            WorkersLate, match="1 of 2 workers have followed within 1 s; the others"
        ):
            await asked.load("bees")
        late.follows = True
        late.follow()
        await asked.load("bees")
        assert asked.serves == late.serves == NEW


async def test_what_a_late_worker_refuses_is_said_and_tried_again_at_the_next_look(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plans = Plans(partial(plan, models), limit_s=1.0)
    async with workers_of(plans) as start:
        asked, late = await start(), await start("2", follows=False)
        put(models, "bees", 2)
        with pytest.raises(WorkersLate):
            await asked.load("bees")
        late.follows = True
        late.follow()
        async with asyncio.timeout(30):
            while "bees" not in asked.missing():
                await asyncio.sleep(0)
        assert asked.serves == NEW and late.serves == BOTH
        assert asked.missing() == {"bees": "too large"}
        assert [each.getMessage() for each in caplog.records].count(
            "bees is left as it was: too large"
        ) == 1
        late._refuses = "none"
        plans._limit_s = 30
        await plans.refresh()
        assert late.serves == NEW and not asked.missing()


async def test_where_nobody_follows_nothing_has_changed(models: Path) -> None:
    async with workers_of(Plans(partial(plan, models), limit_s=0.1)) as start:
        asked = await start()
        put(models, "bees", 2)
        asked.follows = False
        with pytest.raises(WorkersLate, match="0 of 1 workers .* nothing has changed"):
            await asked.load("bees")
        with pytest.raises(WorkersLate, match="nothing has changed"):
            await asked.unload("ants")
        asked.follows = True
        asked.follow()
        assert asked.serves == BOTH == (await start()).serves
