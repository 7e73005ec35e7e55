"""Workers that live and die, without a server: shell scripts stand in for them."""

import asyncio
import errno
import os
import signal
import threading
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from snapensemble.contracts.process import SIGNALS, Stopped
from snapensemble.serving.process.channel import FromWorker
from snapensemble.serving.process.supervisor import (
    MAX_TRIES,
    Supervisor,
    Worker,
    WorkerFailed,
    pause_s,
)
from snapensemble.serving.process.watchdog import CUT_OFF

READY = """echo '{"message": "ready", "protocol": 2, "pid": '$$'}' >/dev/fd/$SAYS; """
GOOD = READY + "read line"  # lives until a signal, or until its input ends
LOSES_ONE = "trap 'trap - TERM' TERM; " + READY + "while :; do read line; done"
DEAF = "trap '' TERM INT; " + GOOD
BAD = "exit 2"
TALKATIVE = "echo ready; echo ready >&2; exit 2"
KILLED = "kill -KILL $$"
NO_PROCESS = "the system starts none"


class Spawned:
    """Starts the scripts in their order, the last one again and again."""

    def __init__(self, *scripts: str) -> None:
        self.scripts = list(scripts)
        self.started: asyncio.Queue[Process] = asyncio.Queue()
        self.places: list[int] = []

    async def __call__(self, place: int) -> Worker:
        self.places.append(place)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        if script == NO_PROCESS:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        hears, says = os.pipe()
        worker = await FromWorker.on(hears)
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", script),
            stdin=PIPE,
            pass_fds=[says],
            env={**os.environ, "SAYS": str(says)},
        )
        os.close(says)
        self.started.put_nowait(process)
        return Worker(process, partial(worker.is_ready, process.pid))


@asynccontextmanager
async def running(supervisor: Supervisor) -> AsyncIterator["asyncio.Task[int]"]:
    """A supervisor whose workers are all ready."""
    ready = asyncio.Event()
    task = asyncio.create_task(supervisor.run(ready.set))
    await asyncio.wait_for(ready.wait(), 30)
    try:
        yield task
    finally:
        for _ in range(2):
            supervisor.stop(signal.SIGTERM)
        await asyncio.wait([task], timeout=30)


async def next_of(spawned: Spawned) -> Process:
    return await asyncio.wait_for(spawned.started.get(), 30)


@pytest.mark.parametrize("signum", SIGNALS)
async def test_a_signal_ends_all_and_that_is_a_good_end(
    signal_handlers: None, signum: signal.Signals
) -> None:
    ended: list[int] = []
    spawned = Spawned(GOOD)
    supervisor = Supervisor(spawned, 3, on_end=ended.append)
    async with running(supervisor) as task:
        os.kill(os.getpid(), signum)
        assert await asyncio.wait_for(task, 30) == 0
    processes = [await next_of(spawned) for _ in range(3)]
    assert sorted(ended) == [0, 1, 2]
    assert {process.returncode for process in processes} == {-signum}
    assert spawned.places == [0, 1, 2]


async def test_a_signal_that_a_worker_loses_comes_again(signal_handlers: None) -> None:
    supervisor = Supervisor(Spawned(LOSES_ONE), 2)
    async with running(supervisor) as task:
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(task, 30) == 0


async def test_a_hangup_ends_nothing_where_it_means_something_else(signal_handlers: None) -> None:
    hung_up = asyncio.Event()
    spawned = Spawned(GOOD)
    supervisor = Supervisor(spawned, 1, on_hangup=hung_up.set)
    async with running(supervisor) as task:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.wait_for(hung_up.wait(), 30)
        assert not task.done() and (await next_of(spawned)).returncode is None


async def test_one_that_dies_is_replaced_in_its_place(signal_handlers: None) -> None:
    spawned = Spawned(GOOD)
    async with running(Supervisor(spawned, 2)):
        first, second = await next_of(spawned), await next_of(spawned)
        second.kill()
        third = await next_of(spawned)
        assert first.returncode is None and third.returncode is None
        assert spawned.places == [0, 1, 1]


async def test_what_keeps_all_from_starting_is_found_by_the_first(signal_handlers: None) -> None:
    spawned = Spawned(BAD)
    with pytest.raises(WorkerFailed, match="exit code 2") as caught:
        await Supervisor(spawned, 4).run(lambda: None)
    assert caught.value.code == 2 and spawned.places == [0]


async def test_one_of_several_that_does_not_start_ends_the_others(signal_handlers: None) -> None:
    spawned = Spawned(GOOD, BAD, GOOD)
    with pytest.raises(WorkerFailed):
        await Supervisor(spawned, 3).run(lambda: None)
    processes = [await next_of(spawned) for _ in range(3)]
    assert all(process.returncode is not None for process in processes)


async def test_a_replacement_that_does_not_start_is_tried_again_while_others_answer(
    signal_handlers: None,
) -> None:
    spawned = Spawned(GOOD, GOOD, BAD, GOOD)
    async with running(Supervisor(spawned, 2)) as task:
        await next_of(spawned)
        (await next_of(spawned)).kill()
        await next_of(spawned)
        await next_of(spawned)
        assert not task.done() and spawned.places == [0, 1, 1, 1]


async def test_where_the_system_starts_none_the_others_answer_and_it_is_tried_again(
    signal_handlers: None, caplog: pytest.LogCaptureFixture
) -> None:
    spawned = Spawned(GOOD, GOOD, NO_PROCESS, GOOD)
    async with running(Supervisor(spawned, 2)):
        other = await next_of(spawned)
        (await next_of(spawned)).kill()
        await next_of(spawned)
        assert other.returncode is None and spawned.places == [0, 1, 1, 1]
    assert "a worker did not start: Resource temporarily unavailable" in caplog.text


async def test_where_the_system_starts_none_at_all_the_start_says_so(signal_handlers: None) -> None:
    with pytest.raises(WorkerFailed, match="Resource temporarily unavailable"):
        await Supervisor(Spawned(NO_PROCESS), 2).run(lambda: None)


async def test_when_nobody_answers_and_none_can_start_it_gives_up(signal_handlers: None) -> None:
    spawned = Spawned(GOOD, BAD)
    async with running(Supervisor(spawned, 1)) as task:
        (await next_of(spawned)).kill()
        with pytest.raises(WorkerFailed):
            await asyncio.wait_for(task, 30)


async def test_when_nobody_answers_one_that_is_killed_while_it_starts_is_tried_again(
    signal_handlers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapensemble.serving.process.supervisor.pause_s", lambda _: 0.0)
    spawned = Spawned(GOOD, *[KILLED] * (MAX_TRIES - 1), GOOD)
    async with running(Supervisor(spawned, 1)) as task:
        (await next_of(spawned)).kill()
        for _ in range(MAX_TRIES - 1):
            await next_of(spawned)
        last = await next_of(spawned)
        assert not task.done() and last.returncode is None


async def test_it_does_not_try_for_ever(
    signal_handlers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapensemble.serving.process.supervisor.pause_s", lambda _: 0.0)
    spawned = Spawned(GOOD, KILLED)
    async with running(Supervisor(spawned, 1)) as task:
        (await next_of(spawned)).kill()
        with pytest.raises(WorkerFailed, match="killed by SIGKILL"):
            await asyncio.wait_for(task, 30)
    assert len(spawned.places) == 1 + MAX_TRIES


async def test_output_of_any_other_kind_makes_nobody_ready(signal_handlers: None) -> None:
    with pytest.raises(WorkerFailed, match="exit code 2"):
        await Supervisor(Spawned(TALKATIVE), 2).run(lambda: None)


async def test_one_that_is_stopped_ends_as_the_others(signal_handlers: None) -> None:
    spawned = Spawned(GOOD)
    supervisor = Supervisor(spawned, 2)
    async with running(supervisor) as task:
        stopped, _ = await next_of(spawned), await next_of(spawned)
        stopped.send_signal(signal.SIGSTOP)
        supervisor.stop(signal.SIGTERM)
        assert await asyncio.wait_for(task, 30) == 0
    assert stopped.returncode == -signal.SIGTERM


async def test_those_that_have_not_ended_in_time_are_killed(signal_handlers: None) -> None:
    spawned = Spawned(GOOD, DEAF)
    supervisor = Supervisor(spawned, 2, patience_s=lambda _: 0.3)
    async with running(supervisor) as task:
        good, bad = await next_of(spawned), await next_of(spawned)
        supervisor.stop(signal.SIGTERM)
        assert await asyncio.wait_for(task, 30) == CUT_OFF
    assert (good.returncode, bad.returncode) == (-signal.SIGTERM, -signal.SIGKILL)


async def test_a_signal_is_heard_while_the_loop_waits_for_somebody(signal_handlers: None) -> None:
    heard: list[int] = []
    async with running(Supervisor(Spawned(GOOD), 1, on_signal=heard.append)):
        os.kill(os.getpid(), signal.SIGTERM)  # no turn of the loop until the next line
        assert heard == [signal.SIGTERM]


async def test_a_signal_that_another_thread_gets_is_obeyed_at_once(signal_handlers: None) -> None:
    def get_one() -> None:
        time.sleep(0.1)  # the event loop waits for something by then
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    supervisor = Supervisor(Spawned(GOOD), 1)
    async with running(supervisor) as task:
        threading.Thread(target=get_one).start()
        assert await asyncio.wait_for(task, 10) == 0


async def test_a_second_signal_kills_those_that_do_not_end(signal_handlers: None) -> None:
    spawned = Spawned(DEAF)
    supervisor = Supervisor(spawned, 2)
    async with running(supervisor) as task:
        processes = [await next_of(spawned) for _ in range(2)]
        supervisor.stop(signal.SIGTERM)
        assert not task.done()
        supervisor.stop(signal.SIGINT)
        assert await asyncio.wait_for(task, 30) == 128 + signal.SIGINT
    assert {process.returncode for process in processes} == {-signal.SIGKILL}


async def test_a_signal_during_the_start_ends_it(signal_handlers: None) -> None:
    spawned = Spawned("read line")  # never ready
    supervisor = Supervisor(spawned, 2)
    task = asyncio.create_task(supervisor.run(lambda: None))
    await next_of(spawned)
    supervisor.stop(signal.SIGTERM)
    with pytest.raises(Stopped):
        await asyncio.wait_for(task, 30)


async def test_one_that_dies_during_the_stop_is_not_replaced(signal_handlers: None) -> None:
    spawned = Spawned(GOOD)
    stopped: list[signal.Signals] = []
    supervisor = Supervisor(spawned, 2, on_stop=stopped.append)
    async with running(supervisor) as task:
        supervisor.stop(signal.SIGTERM)
        assert await asyncio.wait_for(task, 30) == 0
    assert stopped == [signal.SIGTERM] and spawned.places == [0, 1]


def test_pauses_grow_and_end_growing() -> None:
    assert [pause_s(n) for n in range(9)] == [0, 0, 1, 2, 4, 8, 16, 30, 30]
