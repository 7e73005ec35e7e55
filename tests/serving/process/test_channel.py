"""What a worker and its parent say to each other."""

import os
from pathlib import Path

import pytest

from snapensemble.serving.inference.repository import Plan, Planned
from snapensemble.serving.process.channel import (
    Followed,
    FromWorker,
    Parent,
    Ready,
    line_of,
    plan_of,
)


async def test_a_worker_that_says_it_is_ready_is_and_is_heard_until_it_ends() -> None:
    hears, says = os.pipe()
    worker = await FromWorker.on(hears)
    parent = Parent(Plan(), says)
    parent.say_ready()
    assert await worker.is_ready(os.getpid())
    parent.followed(Plan(number=3), {"bees": "too large"})
    os.write(says, b"a warning\n")
    parent.followed(Plan(number=4), {})
    os.close(says)
    said = [message async for message in worker.messages()]
    assert said == [
        Followed(number=3, refused={"bees": "too large"}),
        Followed(number=4, refused={}),
    ]


async def test_what_files_are_called_may_be_no_unicode() -> None:
    hears, says = os.pipe()
    worker = await FromWorker.on(hears)
    place = Path(os.fsdecode(b"/models/caf\xe9"))
    planned = Planned(name="bees", version="1", directory=place, sha256="0" * 64, members=1)
    problems = {place.name: f"{place}: too large"}
    plan = Plan(models=(planned,), problems=problems)
    assert plan_of(line_of(plan)) == plan
    parent = Parent(plan, says)
    parent.say_ready()
    assert await worker.is_ready(os.getpid())
    parent.followed(plan, problems)
    os.close(says)
    assert [message async for message in worker.messages()] == [
        Followed(number=0, refused=problems)
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"ready\n",
        b"a warning\n",
        b"{}\n",
        b'{"message": "ready", "protocol": 2, "pid": 1}\n',
        b'{"message": "ready", "protocol": 1, "pid": %d}\n' % os.getpid(),
        b'{"message": "ready", "protocol": 2, "pid": "%d"}\n' % os.getpid(),
        Ready(pid=os.getpid()).model_dump_json().encode()[:-1],
        b"x" * 60_000,
    ],
    ids=[
        "nothing", "no record", "a warning", "an empty record", "another process",
        "another protocol", "a number in words", "cut off", "without an end",
    ],
)  # fmt: skip
async def test_anything_else_is_not_taken_for_it(line: bytes) -> None:
    hears, says = os.pipe()
    worker = await FromWorker.on(hears)
    os.write(says, line)
    os.close(says)
    assert not await worker.is_ready(os.getpid())


def test_a_parent_that_has_died_is_no_defect() -> None:
    hears, says = os.pipe()
    os.close(hears)
    Parent(Plan(), says).say_ready()
