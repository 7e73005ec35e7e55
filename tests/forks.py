"""Processes that begin as copies of this one, so that they need not import torch for seconds.

What only a fresh interpreter shows (imports, the console script, memory) is tested in one.
"""

import contextlib
import gc
import logging
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from subprocess import CompletedProcess
from typing import IO, NoReturn

from snapensemble.cli import main


class Fork:
    """A child process; `stderr` can be read while it runs, `stdout` is a file."""

    def __init__(self, work: Callable[[], int]) -> None:
        reading, writing = os.pipe()
        self.stdout: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 # closed by `forked`
        self.returncode: int | None = None
        with warnings.catch_warnings():
            # Python 3.12 warns where there are threads; none of a test's threads does the work.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            _work_and_end(work, self.stdout.fileno(), writing)
        os.close(writing)
        self.stderr = os.fdopen(reading)

    def send_signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def wait(self) -> int:
        """The exit code, or the negative number of the signal that has ended it."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        """The rest of what the child prints on both streams until it ends."""
        errors = self.stderr.read()
        self.wait()
        self.stdout.seek(0)
        return self.stdout.read(), errors


@contextlib.contextmanager
def forked(work: Callable[[], int]) -> Iterator[Fork]:
    """A child that does some work and ends with the code that it gives; killed on leaving."""
    child = Fork(work)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.send_signal(signal.SIGKILL)
            child.wait()
        child.stderr.close()
        child.stdout.close()


def finished(work: Callable[[], int]) -> "CompletedProcess[str]":
    """What a child has printed, and its exit code."""
    with forked(work) as child:
        out, errors = child.communicate()
        return CompletedProcess([], child.wait(), out, errors)


def run(*arguments: object) -> "CompletedProcess[str]":
    """Run `snapensemble ARGUMENT...` in a child."""
    return finished(lambda: main([str(argument) for argument in arguments]))


def _work_and_end(work: Callable[[], int], stdout: int, stderr: int) -> NoReturn:
    """Come back never, whatever is raised where: as a second pytest it would hold up the first."""
    code = 1
    try:
        gc.freeze()  # garbage of gRPC waits, when it is freed, for threads that a child has not
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 # they end with the process
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        logging.root.handlers.clear()  # pytest's
        ended_with = _code_of(work)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        code = ended_with
    finally:
        os._exit(code)


def _code_of(work: Callable[[], int]) -> int:
    try:
        return work()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
