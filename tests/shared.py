"""Files and directories that are made once for all processes that share the tests."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

_base: list[Path] = []


def share(factory: pytest.TempPathFactory) -> None:
    """Have `made_once` use the directory in which each process of pytest-xdist has its own."""
    own = factory.getbasetemp()
    _base[:] = [own.parent if "PYTEST_XDIST_WORKER" in os.environ else own]


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """A path that the first process to ask for it makes; the others wait until it is whole.

    Args:
        name: the path's name.
        make: makes the path that it is given, which does not exist yet.
    """
    (base,) = _base
    with (base / f"{name}.made").open("a+") as made:
        fcntl.flock(made, fcntl.LOCK_EX)
        # Its position is of when it was opened: another process may have written since.
        if os.fstat(made.fileno()).st_size == 0:
            make(base / name)
            made.write("yes")
    return base / name
