"""What the processes that share the tests make once."""

import contextlib
import threading
from pathlib import Path

from tests.shared import made_once
from tests.waiting import wait_for


def test_who_asks_while_it_is_made_waits_and_makes_nothing() -> None:
    made, is_begun, may_end = [], threading.Event(), threading.Event()

    def make(path: Path) -> None:
        made.append(path)
        path.write_text("whole")
        is_begun.set()
        assert may_end.wait(30)

    def ask() -> None:
        assert made_once("once", make).read_text() == "whole"

    first = threading.Thread(target=ask)
    first.start()
    assert is_begun.wait(30)
    second = threading.Thread(target=ask)
    second.start()
    wait_for(opened_twice)
    may_end.set()
    first.join()
    second.join()
    assert len(made) == 1


def opened_twice() -> bool:
    """Whether both threads have opened the mark, so that the second one waits for its lock."""
    names = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            names.append(descriptor.readlink().name)
    return names.count("once.made") == 2
