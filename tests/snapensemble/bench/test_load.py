"""The two loops, on a clock that the tests turn."""

import asyncio
from itertools import pairwise

import pytest

from snapensemble.bench.load import Answer, Sample, closed_loop, open_loop, poisson_arrivals

OK = Answer(members_used=1)


class Clock:
    """Stands still unless somebody waits or works."""

    def __init__(self) -> None:
        self.time_s = 100.0

    def now(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        due_s = self.time_s + seconds
        await asyncio.sleep(0)  # everyone else has a turn
        self.time_s = max(self.time_s, due_s)

    async def work(self, _: int) -> Answer:
        """One request at a time, a second each."""
        self.time_s += 1
        return OK


def latencies(samples: list[Sample]) -> list[float]:
    return [sample.ended - sample.started for sample in samples]


async def test_an_open_loop_counts_waiting_from_the_schedule() -> None:
    clock = Clock()
    samples = await open_loop(clock.work, [0.0, 0.25, 0.5], now=clock.now, sleep=clock.sleep)
    assert [sample.started for sample in samples] == [100.0, 100.25, 100.5]
    assert latencies(samples) == [1.0, 1.75, 2.5]


async def test_a_closed_loop_counts_from_sending() -> None:
    clock = Clock()
    samples = await closed_loop(clock.work, concurrency=1, seconds=3, now=clock.now)
    assert [sample.started for sample in samples] == [100.0, 101.0, 102.0]
    assert latencies(samples) == [1.0, 1.0, 1.0]


async def test_a_closed_loop_has_as_many_requests_open_as_it_has_clients() -> None:
    clock, is_open, most = Clock(), 0, 0
    numbers: list[int] = []

    async def ask(number: int) -> Answer:
        nonlocal is_open, most
        numbers.append(number)
        is_open += 1
        most = max(most, is_open)
        await clock.sleep(0.1)
        is_open -= 1
        return OK

    samples = await closed_loop(ask, concurrency=4, seconds=2, now=clock.now)
    assert most == 4
    assert numbers == list(range(len(samples)))


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    clock, asked, all_came = Clock(), 0, asyncio.Event()

    async def ask(_: int) -> Answer:
        nonlocal asked
        asked += 1
        if asked == 20:
            all_came.set()
        await all_came.wait()
        return OK

    samples = await open_loop(ask, [0.1 * i for i in range(20)], now=clock.now, sleep=clock.sleep)
    assert len(samples) == 20


@pytest.mark.parametrize("loop", ["closed", "open"])
async def test_a_stopped_loop_keeps_its_answers_and_forgets_what_fails_then(loop: str) -> None:
    clock = Clock()

    async def ask(number: int) -> Answer:
        await clock.sleep(1)
        return Answer("stopping") if number == 3 else OK

    def stop() -> bool:
        return clock.now() >= 104

    if loop == "closed":
        samples = await closed_loop(ask, concurrency=1, seconds=99, stop=stop, now=clock.now)
    else:
        samples = await open_loop(
            ask, [0, 1, 2, 3, 98], stop=stop, now=clock.now, sleep=clock.sleep
        )
    assert [sample.answer for sample in samples] == [OK, OK, OK]


def test_poisson_arrivals_come_at_their_rate_and_at_random() -> None:
    arrivals = list(poisson_arrivals(50, 100))
    assert arrivals == sorted(arrivals) and arrivals[0] > 0 and arrivals[-1] < 100
    assert len(arrivals) == pytest.approx(5000, abs=4 * 5000**0.5)
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    assert sum(gap > 1 / 50 for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.03)
    assert arrivals == list(poisson_arrivals(50, 100))
