"""Who is let in, and all that a request holds, in one object with one end.

A request holds bytes, places among the images under way, and the futures of its images. It gives
all of it back when its `with` ends, whatever ended it: an answer, a refusal, a client that left, a
cancellation, a defect.
"""

import math
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol

from snapensemble.serving.errors import Overloaded
from snapensemble.serving.inference.memory import Encoded, MemoryBudget
from snapensemble.serving.inference.request import Answer
from snapensemble.serving.stages import Mode

Submit = Callable[[Sequence[Encoded], Mode, Callable[[Answer], None]], list[Answer]]


class Queue(Protocol):
    """Where images wait for members."""

    def refuse_overload(self, count: int, within_s: float = math.inf) -> None:
        """Raise Overloaded or Stopping if so many images cannot be answered in time."""


class Admission:
    """Lets requests in, on the event loop's thread.

    Args:
        queue: where images wait.
        max_images: of all requests that are under way.
        memory: what they may hold.
    """

    def __init__(self, queue: Queue, *, max_images: int, memory: MemoryBudget) -> None:
        self.memory = memory
        self.images = 0  # of requests under way
        self.requests = 0
        self._queue = queue
        self._max_images = max_images

    def request(self, within_s: float = math.inf) -> "Holding":
        """What one more request will hold, nothing yet: enter it.

        Args:
            within_s: when its sender needs the answer.

        Raises:
            Overloaded: it would wait for longer. Before its body is read: a refusal costs little.
            Stopping: nobody is let in any more.
        """
        self._queue.refuse_overload(1, within_s)
        return Holding(self)

    def enter(self, count: int) -> None:
        """Keep so many images in mind.

        The lanes know only of those that they have not answered. Where the members are quick, it
        is this thread, which writes the answers, that has more work than it can do.

        Raises:
            Overloaded: there are too many already.
        """
        if self.images + count > self._max_images:
            raise Overloaded(
                f"{self.images} images are under way, at most {self._max_images} may be", 1.0
            )
        self.images += count


class Holding:
    """What one request holds. A context manager that gives all of it back."""

    __slots__ = ("_admission", "_answers", "_bytes", "_images", "_pictures")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._bytes = 0
        self._images = 0
        self._pictures: Sequence[Encoded] = ()
        self._answers: Sequence[Answer] = ()

    def __enter__(self) -> "Holding":
        self._admission.requests += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for answer in self._answers:  # an image that nobody waits for is in no later micro-batch
            answer.cancel()
        for picture in self._pictures:
            picture.drop()
        self.let_go(self._bytes)
        self._admission.images -= self._images
        self._images = 0
        self._admission.requests -= 1

    def hold(self, size: int) -> None:
        """So many bytes more; raises Overloaded if all requests together would hold too much."""
        self._admission.memory.hold(size)
        self._bytes += size

    def let_go(self, size: int) -> None:
        """So many bytes less."""
        if size:
            self._admission.memory.let_go(size)
            self._bytes -= size

    def all_answered(self) -> None:
        """Every picture has been decoded and answered: there is nothing to cancel or to free."""
        self._answers = self._pictures = ()

    def submit(
        self,
        pictures: list[bytes],
        mode: Mode,
        submit: Submit,
        callback: Callable[[Answer], None],
    ) -> Sequence[Answer]:
        """Hand the pictures in; from now on their bytes are freed as each of them is decoded.

        Args:
            pictures: encoded, held already. Nobody else may keep them: the list is emptied.
            mode: which members to ask.
            submit: takes them, or raises and takes none.
            callback: told of each answer.

        Raises:
            Overloaded: there is no place for them.
        """
        self._admission.enter(len(pictures))
        self._images = len(pictures)
        handed_in = [Encoded(picture, self._admission.memory) for picture in pictures]
        pictures.clear()
        self._answers = submit(handed_in, mode, callback)
        self._pictures = handed_in
        self._bytes -= sum(picture.size for picture in handed_in)
        self.let_go(self._bytes)  # what was around the pictures
        return self._answers
