"""Files and directories that are made once for all processes that share the tests."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A path that the first process to ask for it makes; the others wait until it is whole.

    Args:
        factory: gives each process of pytest-xdist a directory inside one that all share.
        name: the path's name.
        make: makes the path that it is given, which does not exist yet.
    """
    own = factory.getbasetemp()
    base = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with (base / f"{name}.made").open("a+") as made:
        fcntl.flock(made, fcntl.LOCK_EX)
        # Its position is of when it was opened: another process may have written since.
        if os.fstat(made.fileno()).st_size == 0:
            make(base / name)
            made.write("yes")
    return base / name
