"""Waiting until another thread or process has done something."""

import time
from collections.abc import Callable
from subprocess import Popen

PAUSE_S = 0.005  # between two looks: whoever must act needs the processor more than who waits


def wait_for(
    condition: Callable[[], bool], *, while_runs: "Popen[str] | Popen[bytes] | None" = None
) -> None:
    """Look until it is so; what never happens is ended by the time limit of the test.

    Args:
        condition: tells whether it has happened.
        while_runs: a process that must not end before.
    """
    while not condition():
        assert while_runs is None or while_runs.poll() is None, "it has ended"
        time.sleep(PAUSE_S)
