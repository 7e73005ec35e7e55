"""What a worker and its parent say to each other."""

import os

import pytest

from snapensemble.serving.inference.repository import Plan
from snapensemble.serving.process.channel import Followed, FromWorker, Parent, Ready


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
