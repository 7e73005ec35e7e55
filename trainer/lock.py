"""One process at a time may train in a directory."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contracts.errors import InvalidConfig, WriteFailed

LOCK_FILE = ".lock"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock; the system lets go of it however this process ends.

    Raises:
        InvalidConfig: another process holds it.
        WriteFailed: the directory is not there or not writable.
    """
    try:
        file = (directory / LOCK_FILE).open("a")
    except OSError as error:
        raise WriteFailed(f"{directory}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidConfig(f"another process is training in {directory}") from None
        except OSError:  # a file system without locks, as some network ones are
            pass
        yield
