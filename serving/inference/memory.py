"""Bytes that requests hold together in a process, and who must free them.

What is counted is what is held: bodies from their first byte until nobody has them any more, what
they grow to while they are parsed, and pictures while they are decoded.
"""

import contextlib
import threading
import time
from collections.abc import Iterator

from snapensemble.serving.errors import Overloaded


class MemoryBudget:
    """Counts bytes up to a limit. Safe from any thread.

    Args:
        limit: bytes that may be held at the same time.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._lock = threading.Lock()
        self._freed = threading.Condition(self._lock)
        self._waiting = 0

    def hold(self, size: int) -> None:
        """Count so many bytes.

        Raises:
            Overloaded: together it would be too much; nothing is counted.
        """
        with self._lock:
            if self.held + size > self.limit:
                raise Overloaded(
                    f"requests hold {self.held:,} bytes and {size:,} more were to come, at most "
                    f"{self.limit:,} are held at the same time; try again later",
                    1.0,
                )
            self.held += size

    def let_go(self, size: int) -> None:
        """So many bytes are free."""
        with self._lock:
            self.held -= size
            if self._waiting:
                self._freed.notify_all()

    @contextlib.contextmanager
    def held_when_free(self, size: int, within_s: float) -> Iterator[None]:
        """Count so many bytes while the body runs; waits until others have freed enough.

        Raises:
            Overloaded: they have not within that time, or it is more than there can ever be.
        """
        end = time.monotonic() + within_s
        with self._lock:
            while self.held + size > self.limit:
                left_s = end - time.monotonic()
                if size > self.limit or left_s <= 0:
                    raise Overloaded(
                        f"{size:,} bytes are needed to decode the picture and {self.held:,} are "
                        f"held, at most {self.limit:,} are at the same time; try again later",
                        1.0,
                    )
                self._waiting += 1
                self._freed.wait(left_s)
                self._waiting -= 1
            self.held += size
        try:
            yield
        finally:
            self.let_go(size)


class Encoded:
    """The bytes of a picture, which count as held until whoever has them last is done.

    Either a lane takes them, or the request that brought them drops them; only one of the two.
    """

    __slots__ = ("_box", "_is_wanted", "_memory", "size")

    def __init__(self, data: bytes, memory: MemoryBudget | None = None) -> None:
        """Take over bytes that count already, in `memory` if it is given."""
        self.size = len(data)
        self._box = [data]
        self._is_wanted = True
        self._memory = memory

    def take(self) -> bytes | None:
        """The bytes, for who then calls `done` or `put_back`; None if they were dropped before."""
        try:
            return self._box.pop()  # one step for the interpreter: only one thread gets them
        except IndexError:
            return None

    def done(self) -> None:
        """Who has taken them needs them no more."""
        if self._memory is not None:
            self._memory.let_go(self.size)

    def put_back(self, data: bytes) -> None:
        """Who has taken them leaves them to the next."""
        self._box.append(data)
        if not self._is_wanted:  # dropped meanwhile, perhaps before they were there
            self.drop()

    def drop(self) -> None:
        """Nobody wants them any more; if they have been taken, they are free when that is over."""
        self._is_wanted = False  # before the look into the box: see `put_back`
        if self.take() is not None:
            self.done()
