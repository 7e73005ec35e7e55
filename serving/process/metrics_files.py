"""The directory in which the workers of a server count together.

Each place for a worker has its files there, not each process: a new worker counts on where the one
before it has stopped. So the files are as many as the places, and no count ever goes back.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import prometheus_client.values
from prometheus_client.multiprocess import mark_process_dead

from snapensemble.contracts.errors import InvalidConfig

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 # mkdtemp makes a private directory in it
PREFIX = "snapensemble-workers-"


@dataclass(frozen=True, slots=True)
class MetricsFiles:
    """A directory of counts, held by this process and by those that inherit its lock."""

    directory: Path
    lock: int  # the descriptor that holds the lock

    def forget_gauges(self, place: int) -> None:
        """Forget what the ended worker of a place was doing; what it has counted stays."""
        mark_process_dead(place, str(self.directory))  # type: ignore[no-untyped-call]


def count_as(place: int) -> None:
    """Make this process count in the files of a place; call it before any count is made."""
    prometheus_client.values.ValueClass = prometheus_client.values.MultiProcessValue(  # type: ignore[no-untyped-call]
        process_identifier=lambda: place
    )


@contextlib.contextmanager
def metrics_files(parent: Path | None = None) -> Iterator[MetricsFiles]:
    """Make a private directory, in memory if possible, which is removed at the end.

    Directories that servers left when they were killed are removed first: nobody holds their locks.

    Args:
        parent: where to make it, if not in shared memory.

    Raises:
        InvalidConfig: no directory can be made there.
    """
    if parent is None and SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK):
        parent = SHARED_MEMORY
    try:
        parent = parent or Path(tempfile.gettempdir())
        remove_abandoned(parent)
        files = _new(parent)
    except OSError as error:
        raise InvalidConfig(
            f"--workers needs a directory for what the workers count: {error}; "
            "make /dev/shm or TMPDIR writable, or use --workers 1"
        ) from error
    try:
        yield files
    finally:
        shutil.rmtree(files.directory, ignore_errors=True)
        os.close(files.lock)


def remove_abandoned(parent: Path) -> None:
    """Remove the directories of this user's servers of which no process is left."""
    for directory in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, one in use, or gone meanwhile
            lock = _locked(directory)
            shutil.rmtree(directory, ignore_errors=True)
            os.close(lock)


def _new(parent: Path) -> MetricsFiles:
    while True:
        directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            lock = _locked(directory)
            if directory.exists():
                return MetricsFiles(directory, lock)
            os.close(lock)
        # Another server that starts has just taken the directory for abandoned.


def _locked(directory: Path) -> int:
    """A descriptor that holds a directory's lock; BlockingIOError if another process does."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
