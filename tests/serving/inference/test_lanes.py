"""Lanes that several schedulers share."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapensemble.serving.inference.batch import Clock
from snapensemble.serving.inference.lanes import Lanes, Task
from snapensemble.serving.inference.scheduler import Scheduler
from tests.fakes import GatedMember, submit
from tests.serving.inference.test_scheduler import expected, image


class Source:
    """So many tasks of equal length, which note whose they were."""

    def __init__(self, name: str, tasks: int, seconds: float, log: list[str]) -> None:
        self.left = tasks
        self.is_closed = False
        self.backlog_s = tasks * seconds
        self._name, self._seconds, self._log = name, seconds, log

    @property
    def is_over(self) -> bool:
        return self.is_closed and not self.left

    def next_task(self) -> Task | None:
        if not self.left:
            return None
        self.left -= 1
        return self._task

    def _task(self, _: Clock) -> None:
        self._log.append(self._name)
        end = time.monotonic() + self._seconds
        while time.monotonic() < end:
            pass

    def leave(self, lanes: Lanes) -> None:
        with lanes.lock:
            self.is_closed = True
        lanes.leave(self)


def test_who_has_little_to_do_is_not_kept_waiting_by_who_has_much() -> None:
    lanes, log = Lanes(1), list[str]()
    busy, quiet = Source("busy", 200, 0.001, log), Source("quiet", 20, 0.001, log)
    with lanes.lock:  # the lane begins when both are there
        threads = [threading.Thread(target=lanes.join, args=(each,)) for each in (busy, quiet)]
    for thread in threads:
        thread.start()
        thread.join()
    for source in (quiet, busy):
        source.leave(lanes)
    last = max(place for place, name in enumerate(log) if name == "quiet")
    first = log.index("quiet")
    assert log.count("busy") == 200 and log.count("quiet") == 20
    assert log[first : last + 1].count("busy") < 80  # in turn, and not after all others


def test_shares_are_of_lane_time_and_not_of_tasks() -> None:
    lanes, log = Lanes(1), list[str]()
    long, short = Source("long", 20, 0.008, log), Source("short", 60, 0.001, log)
    lanes.join(long)
    lanes.join(short)
    for source in (short, long):
        source.leave(lanes)
    first, last = log.index("short"), max(i for i, name in enumerate(log) if name == "short")
    assert log[first : last + 1].count("long") <= 20  # about 60 x 1 / 8, and far from 60


def test_a_wait_counts_of_others_no_more_than_the_own_work() -> None:
    lanes, log = Lanes(1), list[str]()
    sources = [Source(name, 0, 0.0, log) for name in "abc"]
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
