from collections.abc import Callable

import numpy as np
import pytest

from snapensemble.export.speed import ROUNDS, Speed, compare_speed, in_words, seconds_per_run
from tests.factories import CONTRACT, linear_member


class Machine:
    """Clocks that only work moves on; one that others use too moves on faster than the work."""

    def __init__(self, crowd: float = 1) -> None:
        self.worked = 0.0
        self.crowd = crowd
        self.log: list[str] = []

    def work(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.log.append(name)
            self.worked += seconds

        return run

    def measure(self, *runs: Callable[[], None], seconds: float) -> list[float]:
        return seconds_per_run(
            runs, seconds, work=lambda: self.worked, clock=lambda: self.worked * self.crowd
        )


def test_the_slow_and_the_fast_one_take_turns() -> None:
    machine = Machine()
    slow, fast = machine.work("slow", 0.02), machine.work("fast", 0.01)
    assert machine.measure(slow, fast, seconds=0.5) == pytest.approx([0.02, 0.01])
    assert machine.log == ["slow", "fast"] * (len(machine.log) // 2)
    assert len(machine.log) // 2 >= 2 + ROUNDS - 1


def test_it_takes_about_as_long_as_asked_for() -> None:
    machine = Machine()
    machine.measure(machine.work("a", 0.0013), machine.work("b", 0.0007), seconds=1)
    assert 0.8 < machine.worked < 1.1


def test_a_disturbance_of_one_round_does_not_count() -> None:
    machine = Machine()
    calls = iter(range(10**6))

    def disturbed() -> None:
        machine.worked += 5.0 if next(calls) == 4 else 0.1

    assert machine.measure(disturbed, seconds=1.5) == pytest.approx([0.1])


def test_on_a_crowded_machine_it_stops_after_three_rounds() -> None:
    machine = Machine(crowd=1000)
    assert machine.measure(machine.work("a", 0.1), seconds=1.5) == pytest.approx([0.1])
    assert len(machine.log) == 2 + 3


def test_both_files_are_run_at_both_batch_sizes() -> None:
    images = np.zeros((2, *CONTRACT.shape), np.uint8)
    found = compare_speed([linear_member(0)], [linear_member(1)], images, seconds=0.01)
    assert [speed.batch_size for speed in found] == [1, 16]
    assert all(speed.fp32 > 0 and speed.int8 > 0 for speed in found)


def test_the_sentence_says_when_int8_is_not_faster() -> None:
    fast, slow = Speed(1, 1000, 2000), Speed(16, 1500, 1400)
    assert in_words([fast]) == (
        "int8 is 2.00 times as fast as fp32 at batch size 1 (2,000 and 1,000 images/s), "
        "in one thread on this machine"
    )
    assert in_words([fast, slow]).startswith("int8 is not faster on this machine: 2.00 times")
