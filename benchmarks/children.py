"""Processes that do not outlive what they were started for."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import AnyStr

PATIENCE_S = 30


@contextmanager
def ended(process: subprocess.Popen[AnyStr]) -> Iterator[subprocess.Popen[AnyStr]]:
    """A process that has ended when the block is left, also by an exception.

    `Popen` as a context manager waits instead: where a check in the block has failed, for a server
    that nobody stops any more.
    """
    with process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
