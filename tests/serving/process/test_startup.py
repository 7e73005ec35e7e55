"""The message by which a worker is known to be ready."""

import os

import pytest

from snapensemble.serving.process.startup import Ready, hearing_ready, say_ready


async def test_a_worker_that_says_it_is_ready_is() -> None:
    hears, says = os.pipe()
    is_ready = await hearing_ready(hears)
    say_ready(says)
    assert await is_ready(os.getpid())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"ready\n",
        b"a warning\n",
        b"{}\n",
        b'{"message": "ready", "protocol": 1, "pid": 1}\n',
        b'{"message": "ready", "protocol": 2, "pid": %d}\n' % os.getpid(),
        b'{"message": "ready", "protocol": 1, "pid": "%d"}\n' % os.getpid(),
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
    is_ready = await hearing_ready(hears)
    os.write(says, line)
    os.close(says)
    assert not await is_ready(os.getpid())


def test_a_parent_that_has_died_is_no_defect() -> None:
    hears, says = os.pipe()
    os.close(hears)
    say_ready(says)
