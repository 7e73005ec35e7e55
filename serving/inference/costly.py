"""Pictures that take long are decoded on a thread of their own, so that the lanes go on.

Nothing here locks but the queue itself; a callback learns what becomes of each picture.
"""

import queue
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

from snapensemble.contracts.cpu import stand_back
from snapensemble.contracts.errors import SnapensembleError, TakesTime
from snapensemble.serving.errors import InferenceFailed, Overloaded
from snapensemble.serving.inference.batch import Stage
from snapensemble.serving.inference.request import Image, PendingImage

# Processor time that a lane gives to one picture.
LANE_PATIENCE_S = 0.1
# Memory that a lane gives to one picture; so much may be in use for each without being counted.
LANE_PATIENCE_BYTES = 1 << 25
MEMORY_PATIENCE_S = 5.0  # for others to free the memory that a costly picture needs
# Time that the pictures which wait take together; a lone one may wait whatever it takes.
MOST_WAITING_S = 2.0
_STAND_BACK = 10  # behind the lanes, which are behind the thread that answers clients

HoldMemory = Callable[[int], AbstractContextManager[None]]


class _Costly(NamedTuple):
    stage: Stage
    image: PendingImage
    cost: TakesTime


class CostlyPictures:
    """Decodes one picture after another, in the processor time that the lanes leave.

    Args:
        decode: makes an image of a picture, with as much patience as any picture may take.
        hold_memory: entered around each decoding, with the bytes that it takes at most; may wait,
            or raise Overloaded.
        done: called on the thread after each picture, with its stage, what it was taken to cost,
            and why it failed, if it did.
    """

    def __init__(
        self,
        decode: Callable[[bytes], Image],
        hold_memory: HoldMemory,
        done: Callable[[Stage, PendingImage, TakesTime, Exception | None], None],
    ) -> None:
        self._decode = decode
        self._hold_memory = hold_memory
        self._done = done
        self._queue: queue.SimpleQueue[_Costly | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="costly-pictures", daemon=True)
        self.pending = 0  # pictures that are not done, counted under the scheduler's lock
        self._pending_s = 0.0

    def close(self) -> None:
        """Wait until what was handed over is decoded, and end the thread."""
        if self._thread.ident is not None:
            self._queue.put(None)
            self._thread.join()
        # It leads back to the scheduler: in a cycle the sessions would stay until a collection,
        # in which nobody is answered for a tenth of a second.
        self._done = lambda *_: None

    def hand_over(self, stage: Stage, image: PendingImage, cost: TakesTime) -> Overloaded | None:
        """Queue a picture, or return the error if it would have to wait for too long.

        The first one starts the thread: most models never need theirs, and a server may have many.
        """
        if self.pending and self._pending_s + cost.seconds > MOST_WAITING_S:
            return Overloaded(
                f"{self.pending} pictures that take long to decode wait already, for about "
                f"{self._pending_s:.1f} s; at most {MOST_WAITING_S:.0f} s are accepted",
                self._pending_s,
            )
        if self._thread.ident is None:
            try:
                self._thread.start()
            except RuntimeError:
                return Overloaded(
                    "there is no thread to decode a picture that takes long; try again later", 1.0
                )
        without_frames(cost)
        self.pending += 1
        self._pending_s += cost.seconds
        self._queue.put(_Costly(stage, image, cost))
        return None

    def forget(self, cost: TakesTime) -> None:
        """Stop counting a picture that is done."""
        self.pending -= 1
        self._pending_s = self._pending_s - cost.seconds if self.pending else 0.0

    def _run(self) -> None:
        stand_back(_STAND_BACK)
        while (costly := self._queue.get()) is not None:
            failure: Exception | None = None
            if not costly.image.answer.cancelled():
                try:
                    with self._hold_memory(costly.cost.memory):
                        failure = costly.image.attempt(self._decode)
                except Exception as error:  # no memory became free
                    failure = error
            self._done(*costly, failure and failure_of(failure))


def failure_of(error: Exception) -> Exception:
    """The error for the client, which says what is wrong with the picture, or with the server."""
    if isinstance(error, SnapensembleError):
        return without_frames(error)
    if isinstance(error, MemoryError):
        # The same picture may be decoded a moment later, so it is no defect, either.
        return Overloaded("there is no memory to decode the picture now; send it again", 1.0)
    return InferenceFailed.caused_by(error, "a picture could not be decoded")


def without_frames(error: SnapensembleError) -> SnapensembleError:
    """The same error without traceback and causes: their frames keep the picture's bytes.

    The bytes count as free by now, and the message says all that there is to know.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
