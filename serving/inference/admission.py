"""Admission decides whether a request comes in, and counts what it holds once it is in.

A request holds bytes, places among the images under way, and the futures of its images. It gives
all of it back when its `with` ends, whatever ended it: an answer, a refusal, a client that left, a
cancellation, a defect.
"""

import contextlib
import math
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from snapensemble.serving.errors import Overloaded, Stopping
from snapensemble.serving.inference.request import Encoded, PendingImage

# Predicted waits are trusted as far as earlier ones came out.
MEMORY = 32  # micro-batches after which a wait counts for a third
DEVIATIONS = 4.0  # smoothed deviations that are added to the smoothed mean
MOST = 2.0  # how many times longer a corrected wait may be than the predicted one
SAYS_LITTLE = 0.25  # of the longest wait that is accepted: shorter ones depend on other things


class Forecast:
    """Corrects predicted waits upwards, so that nearly all requests are answered in time.

    A queue that is kept as long as is allowed would keep half of the requests waiting for longer.
    The correction is that of TCP's retransmission timer (RFC 6298, section 2): a smoothed mean, and
    a multiple of the smoothed deviation from it; here of waits as parts of what was predicted.

    Args:
        max_wait_s: the longest that is accepted.
        memory: micro-batches after which a wait counts for a third.
    """

    def __init__(self, max_wait_s: float, *, memory: int = MEMORY) -> None:
        self._max_wait_s = max_wait_s
        self._memory = memory
        self._mean = 1.0
        self._deviation = 0.0

    def came_out(self, predicted_s: float, waited_s: float) -> None:
        """Learn from an image that is answered."""
        if predicted_s <= SAYS_LITTLE * self._max_wait_s:
            return
        error = min(waited_s / predicted_s, MOST) - self._mean
        self._deviation += (abs(error) - self._deviation) / self._memory
        self._mean += error / self._memory

    def corrected(self, predicted_s: float) -> float:
        """A wait that few will exceed; at most twice the predicted one."""
        factor = self._mean + DEVIATIONS * self._deviation
        return predicted_s * min(max(1.0, factor), MOST)


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
        self._waiters = 0

    def hold(self, size: int) -> None:
        """Count these bytes as held.

        Raises:
            Overloaded: all together would be too much; nothing is counted.
        """
        with self._lock:
            if self.held + size > self.limit:
                raise Overloaded(
                    f"requests hold {self.held:,} bytes and {size:,} more were to come, at most "
                    f"{self.limit:,} are held at the same time; try again later",
                    1.0,
                )
            self.held += size

    def count(self, size: int) -> None:
        """Count bytes that are there already, even beyond the limit; below 0 as free again."""
        with self._lock:
            self.held += size
            if size < 0 and self._waiters:
                self._freed.notify_all()

    def let_go(self, size: int) -> None:
        """Count these bytes as free again."""
        self.count(-size)

    @contextlib.contextmanager
    def held_when_free(self, size: int, within_s: float) -> Iterator[None]:
        """Count these bytes as held while the body runs; wait until others have freed enough.

        Raises:
            Overloaded: too little was freed within that time, or the bytes exceed the limit.
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
                self._waiters += 1
                self._freed.wait(left_s)
                self._waiters -= 1
            self.held += size
        try:
            yield
        finally:
            self.let_go(size)


class Share:
    """What one holder has of a budget: a number of bytes that it sets anew as they change.

    Args:
        budget: counts them.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._size = 0

    def hold(self, size: int) -> None:
        """Hold so many bytes, in place of those before; raises Overloaded if it would be too much.

        Fewer than before are never too much.
        """
        if size > self._size:
            self._budget.hold(size - self._size)
        elif size < self._size:
            self._budget.let_go(self._size - size)
        self._size = size


class Scheduler(Protocol):
    """What admission knows of `snapensemble.serving.inference.scheduler.Scheduler`."""

    closed: bool  # whether nobody is let in any more
    unclaimed: int  # unanswered images that no request counts

    @property
    def predicted_wait_s(self) -> float:
        """Seconds until an image that comes now would be answered."""

    def disown(self, images: Iterable[PendingImage]) -> None:
        """Count the unanswered images of a request that is over as unclaimed."""


class Admission:
    """Decides which requests come in, on the event loop's thread.

    Args:
        scheduler: runs the images that come in.
        max_images: how many may be accepted and not answered. An image counts from the moment
            when it is handed to the scheduler until its answer is handed to the client's
            connection; if the client leaves before, until the scheduler has put it out of its
            queue.
        max_wait_s: predicted wait above which requests are refused.
        memory: bytes that requests may hold.
        forecast: corrects predicted waits.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        max_images: int = sys.maxsize,
        max_wait_s: float = math.inf,
        memory: MemoryBudget,
        forecast: Forecast,
    ) -> None:
        self.memory = memory
        self.images = 0  # those of requests under way
        self.requests = 0
        self.scheduler = scheduler
        self._max_images = max_images
        self._max_wait_s = max_wait_s
        self._forecast = forecast

    def request(self, within_s: float = math.inf, *, is_crowded: bool = False) -> "PendingRequest":
        """Let one more request in, which holds nothing yet; enter what is returned.

        The request is checked before its body is read, as if it had one image: a refusal costs
        little. `PendingRequest.accept` checks again when its images have come.

        Args:
            within_s: seconds in which its sender needs the answer.
            is_crowded: whether it has come over a connection beyond the limit.

        Raises:
            Overloaded: there is no room, or no time, for it.
            Stopping: nobody is let in any more.
        """
        self.check(1, within_s, is_crowded=is_crowded)
        return PendingRequest(self)

    def check(self, count: int, within_s: float = math.inf, *, is_crowded: bool = False) -> float:
        """Predict how long so many images would wait, seconds; takes no lock.

        Raises:
            Overloaded: there are too many connections or images, or they would wait for too long.
            Stopping: nobody is let in any more.
        """
        if is_crowded:
            raise Overloaded("too many connections are open; use fewer, or try again later", 1.0)
        if self.scheduler.closed:
            raise Stopping("the server is shutting down; send the request elsewhere")
        predicted_s = self.scheduler.predicted_wait_s
        wait_s = self._forecast.corrected(predicted_s)
        under_way = self.images + self.scheduler.unclaimed
        if under_way + count > self._max_images:
            raise Overloaded(
                f"{under_way} images are under way, at most {self._max_images} may be", wait_s
            )
        most_s = min(self._max_wait_s, within_s)
        if wait_s > most_s:
            raise Overloaded(
                f"the wait would be {wait_s:.1f} s, at most {most_s:.1f} s is accepted",
                wait_s - most_s,
            )
        return predicted_s


class PendingRequest:
    """All that one request holds. A context manager that gives all of it back."""

    __slots__ = ("_admission", "_bytes", "_images", "_is_answered")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._bytes = 0
        self._images: Sequence[PendingImage] = ()
        self._is_answered = False

    def __enter__(self) -> "PendingRequest":
        self._admission.requests += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._images and not self._is_answered:
            for image in self._images:
                image.answer.cancel()  # an image that nobody waits for is in no later micro-batch
                image.drop()
            self._admission.scheduler.disown(self._images)
        self.let_go(self._bytes)
        self._admission.images -= len(self._images)
        self._images = ()
        self._admission.requests -= 1

    def hold(self, size: int) -> None:
        """Hold these bytes, too; raises Overloaded if all requests together would hold too much."""
        self._admission.memory.hold(size)
        self._bytes += size

    def let_go(self, size: int) -> None:
        """Hold these bytes no longer."""
        if size:
            self._admission.memory.let_go(size)
            self._bytes -= size

    def accept(
        self, pictures: list[bytes] | NDArray[np.uint8], within_s: float = math.inf
    ) -> Sequence[PendingImage]:
        """Let the pictures in, as images for the scheduler, which frees the bytes of each.

        Args:
            pictures: held already. Encoded: nobody else may keep them, the list is emptied. Or
                images_NCHW, whose bytes the request holds to its end.
            within_s: seconds in which their sender needs the answer.

        Raises:
            Overloaded: there is no room, or no time, for all of them.
            Stopping: nobody is let in any more.
        """
        predicted_s = self._admission.check(len(pictures), within_s)
        let_go = self._admission.memory.let_go
        found = (
            [Encoded(each, let_go) for each in pictures]
            if isinstance(pictures, list)
            else list(pictures)
        )
        self._images = [PendingImage(each, is_claimed=True) for each in found]
        self._admission.images += len(found)
        self._images[0].times.predicted_s = predicted_s  # the others wait for it, too
        if isinstance(pictures, list):
            rest = self._bytes - sum(map(len, pictures))
            self._bytes = rest
            self.let_go(rest)  # the bytes of the body that are of no picture
            pictures.clear()
        return self._images

    def all_answered(self) -> None:
        """Note that every picture is decoded and answered: nothing is left to cancel or free."""
        self._is_answered = True
