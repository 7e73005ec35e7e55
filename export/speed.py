"""How much faster int8 is on this machine. Times differ between machines, so no manifest has them.

Shapes: N images, B of them together, C channels, H height, W width.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from snapensemble.export.parity import Chain

BATCH_SIZES = (1, 16)
ROUNDS = 15
WORTH_IT = 1.05  # below this, two timings of the same file may differ as much


class Speed(NamedTuple):
    """Images per second of one thread that has a processor to itself."""

    batch_size: int
    fp32: float
    int8: float

    @property
    def ratio(self) -> float:
        """How many times as fast int8 is."""
        return self.int8 / self.fp32


def compare_speed(
    fp32_files: Sequence[bytes],
    int8_files: Sequence[bytes],
    images_NCHW: NDArray[np.uint8],
    *,
    seconds: float = 2.0,
) -> list[Speed]:
    """Time a member in fp32 and in int8, one after the other, at batch sizes 1 and 16.

    Args:
        fp32_files: the member, or its trunk and the member.
        int8_files: the same in int8.
        images_NCHW: at least one image; repeated if need be.
        seconds: how long the comparison takes in all; longer if a single run takes longer.
    """
    chains = [Chain(*fp32_files), Chain(*int8_files)]
    found = []
    for size in BATCH_SIZES:
        images_BCHW = images_NCHW[np.arange(size) % len(images_NCHW)]
        runs = [partial(chain, images_BCHW) for chain in chains]
        fp32, int8 = seconds_per_run(runs, seconds / len(BATCH_SIZES))
        found.append(Speed(size, size / fp32, size / int8))
    return found


def seconds_per_run(
    runs: Sequence[Callable[[], object]],
    seconds: float,
    *,
    work: Callable[[], float] = time.thread_time,
    clock: Callable[[], float] = time.monotonic,
) -> list[float]:
    """The median time of each run over several rounds; in a round every run has its turn.

    Args:
        runs: functions that work in this thread alone.
        seconds: for all of them together; three rounds are done in any case.
        work: this thread's processor time, which does not count while others have the processor.
        clock: says when the time is up.
    """

    def timed(run: Callable[[], object], times: int) -> float:
        start = work()
        for _ in range(times):
            run()
        return (work() - start) / times

    for run in runs:  # the first one also reserves memory
        run()
    end = clock() + seconds
    times = max(1, int(seconds / ROUNDS / sum(timed(run, 1) for run in runs)))
    rounds: list[list[float]] = []
    while len(rounds) < 3 or (len(rounds) < ROUNDS and clock() < end):
        rounds.append([timed(run, times) for run in runs])
    return [median(each) for each in zip(*rounds, strict=True)]


def in_words(speeds: Sequence[Speed]) -> str:
    """A sentence that says plainly when int8 is not worth it here."""
    figures = ", ".join(
        f"{speed.ratio:.2f} times as fast as fp32 at batch size {speed.batch_size} "
        f"({speed.int8:,.0f} and {speed.fp32:,.0f} images/s)"
        for speed in speeds
    )
    if all(speed.ratio >= WORTH_IT for speed in speeds):
        return f"int8 is {figures}, in one thread on this machine"
    return (
        f"int8 is not faster on this machine: {figures}, in one thread; it makes the "
        "files smaller, and wants a processor with VNNI to be faster"
    )
