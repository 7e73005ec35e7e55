"""Children of a test end in every case: one that came back would be a second pytest."""

import gc
import os
import sys
from collections.abc import Callable
from io import TextIOWrapper

import pytest

from tests.forks import finished

MADE_IN = os.getpid()


class Interrupted(TextIOWrapper):
    """A stream in whose flush a signal arrives."""

    def flush(self) -> None:
        raise KeyboardInterrupt


def fails() -> int:
    raise ValueError("as a test does")


def is_interrupted() -> int:
    raise KeyboardInterrupt


def leaves() -> int:
    raise SystemExit(5)


def is_interrupted_at_its_end() -> int:
    sys.stdout = Interrupted(open(os.devnull, "wb"))  # noqa: SIM115 # it ends with the process
    return 0


@pytest.mark.parametrize(
    ("work", "code"),
    [(lambda: 3, 3), (fails, 1), (is_interrupted, 1), (leaves, 5), (is_interrupted_at_its_end, 1)],
)
def test_a_child_ends_with_a_code_whatever_is_raised(work: Callable[[], int], code: int) -> None:
    assert finished(work).returncode == code
    assert os.getpid() == MADE_IN


class InACycle:
    """What ends a child in which it is freed."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        if os.getpid() != MADE_IN:
            os._exit(9)


def collects() -> int:
    gc.collect()
    return 0


def test_a_child_never_frees_what_has_become_garbage_before() -> None:
    InACycle()
    assert finished(collects).returncode == 0


def test_what_a_child_raises_can_be_read() -> None:
    assert "ValueError: as a test does" in finished(fails).stderr
