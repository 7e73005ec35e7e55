"""Two ways to send many requests: a closed loop of clients, and an open loop of arrivals.

In a closed loop a slow answer holds the next request back, so that the worst moments are measured
least (coordinated omission). An open loop sends a request when its schedule says, and the latency
counts from there, also where the request could only be sent later.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request."""

    code: str | None = None  # what went wrong; None if all images of the request were answered
    members_used: int = 0  # summed over its images


@dataclass(frozen=True, slots=True)
class Sample:
    """One request and its answer. Times in seconds on the monotonic clock."""

    started: float  # closed loop: when it was sent; open loop: when it was due
    ended: float
    answer: Answer


Ask = Callable[[int], Awaitable[Answer]]  # the number of a request, counted from 0 -> its answer


async def closed_loop(
    ask: Ask,
    *,
    concurrency: int,
    seconds: float,
    stop: Callable[[], bool] = lambda: False,
    now: Callable[[], float] = time.monotonic,
) -> list[Sample]:
    """Run `concurrency` clients that ask again as soon as they are answered.

    Args:
        ask: sends a request and waits for its answer; raises nothing.
        concurrency: how many requests are open at the same time.
        seconds: how long new requests are begun.
        stop: ends the loop early. What fails then is left out: the server may be ending, too.
        now: the clock.
    """
    numbers = itertools.count()
    samples: list[Sample] = []
    end = now() + seconds

    async def client() -> None:
        while now() < end and not stop():
            started = now()
            answer = await ask(next(numbers))
            if answer.code is None or not stop():
                samples.append(Sample(started, now(), answer))

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return samples


async def open_loop(
    ask: Ask,
    arrivals: Iterable[float],
    *,
    stop: Callable[[], bool] = lambda: False,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> list[Sample]:
    """Send a request at each of `arrivals`, seconds from the start, whatever became of the others.

    Returns once all are answered. The other arguments are those of `closed_loop`.
    """
    samples: list[Sample] = []
    start = now()

    async def one(number: int, due: float) -> None:
        answer = await ask(number)
        if answer.code is None or not stop():
            samples.append(Sample(due, now(), answer))

    async with asyncio.TaskGroup() as requests:
        for number, arrival in enumerate(arrivals):
            due = start + arrival
            await sleep(max(0.0, due - now()))  # also if it is late: the event loop needs a turn
            if stop():
                break
            requests.create_task(one(number, due))
    return samples


def poisson_arrivals(rate: float, seconds: float, seed: int = 0) -> Iterator[float]:
    """Random times from 0 to `seconds`, `rate` per second on average, of a Poisson process."""
    gaps = random.Random(seed)  # noqa: S311 # not a secret
    time_s = gaps.expovariate(rate)
    while time_s < seconds:
        yield time_s
        time_s += gaps.expovariate(rate)
