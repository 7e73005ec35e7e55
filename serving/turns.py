"""Pictures that wait to be decoded.

The request that has waited longest comes first, but one that has had much of the lanes already lets
others go ahead.
"""

import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable

from snapensemble.contracts.errors import ImageTooCostly, TakesTime
from snapensemble.serving.inference.request import Image, Waiting
from snapensemble.serving.stages import Stage

PATIENCE = 4.0
MOST_DECODING_S = 1.0  # processor time of one request


class Turn:
    """Pictures of one request that wait to be decoded.

    Args:
        stage: where they go when they are decoded.
        pictures: at least one.
    """

    def __init__(self, stage: Stage, pictures: Iterable[Waiting]) -> None:
        self.stage = stage
        self.pictures = deque(pictures)
        self.since = self.pictures[0].times.accepted
        self._decoding_s = 0.0
        self._is_alone = len(self.pictures) == 1

    def attempt(self, waiting: Waiting, decode: Callable[[bytes], Image]) -> Exception | None:
        """Decode one of its pictures, or say why not: see `Waiting.attempt`."""
        if self._is_alone:  # what one picture may take is bounded already
            return waiting.attempt(decode)
        if self._decoding_s > MOST_DECODING_S:
            return ImageTooCostly(
                f"the pictures before it in the request took {self._decoding_s:.1f} s of processor "
                f"time to decode, at most {MOST_DECODING_S:.0f} s are spent on one request; send "
                "fewer in each"
            )
        began = time.thread_time()
        failure = waiting.attempt(decode)
        self._decoding_s += time.thread_time() - began
        if isinstance(failure, TakesTime):  # and will take that
            self._decoding_s += failure.seconds
        return failure

    def used(self, seconds: float) -> None:
        """Stand back as if the request had come `PATIENCE` times later than what it has had.

        While others keep coming, a request with many pictures so has a fifth of the lanes: a form
        of large ones keeps nobody waiting for all of them, and is not kept waiting without end.
        """
        self.since += PATIENCE * seconds


class Turns:
    """The queue of them."""

    def __init__(self) -> None:
        self._turns: list[tuple[float, int, Turn]] = []  # a heap; a turn may have moved back since
        self._numbers = itertools.count()
        self._pictures = 0

    def __len__(self) -> int:
        """Pictures that wait."""
        return self._pictures

    def add(self, turn: Turn) -> None:
        """Queue the pictures of one request."""
        self._pictures += len(turn.pictures)
        heapq.heappush(self._turns, (turn.since, next(self._numbers), turn))

    def take(self) -> tuple[Turn, Waiting]:
        """The next picture of the request whose turn it is; there must be one."""
        since, number, turn = self._turns[0]
        while turn.since > since:
            heapq.heapreplace(self._turns, (turn.since, number, turn))
            since, number, turn = self._turns[0]
        self._pictures -= 1
        picture = turn.pictures.popleft()
        if not turn.pictures:
            heapq.heappop(self._turns)
        return turn, picture
