"""Lanes that several schedulers share."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapensemble.serving.inference.lanes import Lanes, Task
from snapensemble.serving.inference.scheduler import Scheduler
from tests.fakes import GatedMember, submit
from tests.serving.inference.test_scheduler import expected, image
from tests.waiting import wait_for


class Clock:
    """Stands still but for the tasks of one lane."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Source:
    """Tasks of equal length, which note whose they were."""

    def __init__(self, name: str, seconds: float, log: list[str], clock: Clock) -> None:
        self.left = 0
        self.is_closed = False
        self.backlog_s = 0.0
        self._name, self._seconds, self._log, self._clock = name, seconds, log, clock

    @property
    def is_over(self) -> bool:
        return self.is_closed and not self.left

    def next_task(self) -> Task | None:
        if not self.left:
            return None
        self.left -= 1
        return self._task

    def _task(self, _: object) -> None:
        self._log.append(self._name)
        self._clock.seconds += self._seconds

    def leave(self, lanes: Lanes) -> None:
        with lanes.lock:
            self.is_closed = True
        lanes.leave(self)


def do_all(lanes: Lanes, tasks: dict[Source, int]) -> None:
    """Give sources that have joined so many tasks at the same moment, and wait for all."""
    with lanes.lock:
        for source, count in tasks.items():
            source.left = count
            source.is_closed = True
        lanes.notify(1)
    for source in tasks:
        lanes.leave(source)


def test_who_has_little_to_do_is_not_kept_waiting_by_who_has_much() -> None:
    clock, log = Clock(), list[str]()
    lanes, busy, quiet = Lanes(1, clock), *(Source(n, 1.0, log, clock) for n in ("busy", "quiet"))
    lanes.join(busy)
    lanes.join(quiet)
    do_all(lanes, {busy: 200, quiet: 20})
    assert log.count("busy") == 200 and log.count("quiet") == 20
    last = max(place for place, name in enumerate(log) if name == "quiet")
    assert log[: last + 1].count("busy") <= 21  # in turn, and not after all others


def test_shares_are_of_lane_time_and_not_of_tasks() -> None:
    clock, log = Clock(), list[str]()
    lanes, long, short = Lanes(1, clock), Source("l", 8.0, log, clock), Source("s", 1.0, log, clock)
    lanes.join(long)
    lanes.join(short)
    do_all(lanes, {long: 20, short: 40})
    last = max(place for place, name in enumerate(log) if name == "s")
    assert 4 <= log[: last + 1].count("l") <= 7  # 40 x 1 / 8, and one at each end


def test_who_was_idle_has_saved_up_no_claim() -> None:
    clock, log = Clock(), list[str]()
    lanes, busy, late = Lanes(1, clock), *(Source(n, 1.0, log, clock) for n in ("busy", "late"))
    lanes.join(busy)
    lanes.join(late)
    with lanes.lock:
        busy.left = 50
        lanes.notify(1)
    wait_for(lambda: clock.seconds >= 50)
    log.clear()
    do_all(lanes, {busy: 50, late: 50})
    assert 23 <= log[:50].count("busy") <= 27


def test_a_wait_counts_of_others_no_more_than_the_own_work() -> None:
    lanes, log = Lanes(1), list[str]()
    sources = [Source(name, 0.0, log, Clock()) for name in "abc"]
    for source, seconds in zip(sources, (1.0, 5.0, 0.5), strict=True):
        source.backlog_s = seconds
        lanes.join(source)
    assert [lanes.wait_s(source) for source in sources] == [1 + 1 + 0.5, 5 + 1 + 0.5, 1.5]
    for source in sources:
        source.leave(lanes)
    assert not any(t.name.startswith("lane-") for t in threading.enumerate())


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    threads=st.integers(1, 3),
)
@settings(max_examples=30)
def test_every_image_of_every_scheduler_gets_its_own_answer(
    counts: list[int], threads: int
) -> None:
    lanes = Lanes(threads)
    members = [GatedMember() for _ in counts]
    schedulers = [Scheduler([m], lanes=lanes, max_batch_size=4) for m in members]
    for scheduler in schedulers:
        scheduler.__enter__()
    futures = [
        submit(scheduler, [image(value) for value in range(count)])
        for scheduler, count in zip(schedulers, counts, strict=True)
    ]
    for scheduler in schedulers:
        scheduler.__exit__()
    for group in futures:
        for value, future in enumerate(group):
            np.testing.assert_allclose(future.result(0), expected(value, 1))
    assert [sum(member.batches) for member in members] == counts


def test_one_scheduler_leaves_while_another_is_held_up() -> None:
    lanes, held, free = Lanes(2), GatedMember(is_open=False), GatedMember()
    with Scheduler([held], lanes=lanes, max_batch_size=1) as stuck:
        (waits,) = submit(stuck, [image(1)])
        assert held.entered.acquire(timeout=30)
        with Scheduler([free], lanes=lanes, max_batch_size=1) as scheduler:
            answers = submit(scheduler, [image(value) for value in range(5)])
        assert all(answer.done() for answer in answers) and not waits.done()
        held.gate.set()
    assert waits.done()


def test_after_the_last_has_left_lanes_may_be_joined_again() -> None:
    lanes = Lanes(2)
    for value in range(3):
        with Scheduler([GatedMember()], lanes=lanes, max_batch_size=1) as scheduler:
            (answer,) = submit(scheduler, [image(value)])
            np.testing.assert_allclose(answer.result(30), expected(value, 1))
        with pytest.raises(KeyError):
            lanes.look_whether_over(scheduler)
