"""Lanes: threads that take (micro-batch, member) tasks from one queue.

A micro-batch forms when a lane has nothing else to do, from whatever waits then: a lone image
starts at once with its members spread over the lanes, and under load batches grow by themselves.

Shapes: M members, B images, C channels, H height, W width, K classes.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from contracts.figures import Floats, softmax
from serving.errors import InferenceFailed, Overloaded, Stopping

Image = NDArray[np.uint8]
log = logging.getLogger("snapensemble")
MemberCall = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What one finished micro-batch took, seconds."""

    waits_s: tuple[float, ...]  # per image, from submission to the start
    inference_s: float  # from the start to the last member's answer
    members_s: tuple[float, ...]  # per member; 0 for those skipped after a failure
    failed: bool


@dataclass(slots=True)
class _Waiting:
    image_CHW: Image
    answer: "Future[Floats]"
    since: float = field(default_factory=time.monotonic)


class Lanes:
    """Runs every image through every member, on `threads` threads.

    Use as a context manager: on leaving, nothing new is accepted, every accepted image is
    answered, and the threads end.

    Args:
        members: each maps images_BCHW to logits_BK; called from any lane, also at the same time.
        threads: how many lanes.
        max_batch_size: images that run together at most.
        max_queue: images that wait at most.
        max_wait_s: predicted wait above which images are refused.
        on_batch: called on a lane after each micro-batch; must be quick.
    """

    def __init__(
        self,
        members: Sequence[MemberCall],
        *,
        threads: int,
        max_batch_size: int,
        max_queue: int,
        max_wait_s: float = math.inf,
        on_batch: Callable[[BatchReport], None] = lambda _: None,
    ) -> None:
        self._members = members
        self._max_batch_size = max_batch_size
        self._max_queue = max_queue
        self._max_wait_s = max_wait_s
        self._on_batch = on_batch
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._tasks: deque[tuple[_MicroBatch, int]] = deque()
        self._running = 0  # images in micro-batches that have not finished
        self._stopping = False
        self._seconds_per_image = 0.0
        self._threads = [
            threading.Thread(target=self._lane, name=f"lane-{i}", daemon=True)
            for i in range(threads)
        ]

    def __enter__(self) -> "Lanes":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    @property
    def threads(self) -> int:
        """How many lanes there are."""
        return len(self._threads)

    @property
    def queued(self) -> int:
        """Images that wait for a micro-batch."""
        return len(self._waiting)

    def submit(self, images: Sequence[Image]) -> "list[Future[Floats]]":
        """Accept all images or none.

        A future that is cancelled while its image waits takes it out of the queue.

        Returns:
            One future per image: its members' distributions, probs_MK.

        Raises:
            Overloaded: the queue is full, or the wait would be too long.
            Stopping: the lanes are being closed.
        """
        with self._changed:
            self._admit(len(images))
            accepted = [_Waiting(image_CHW, Future()) for image_CHW in images]
            self._waiting.extend(accepted)
            self._changed.notify()
        return [waiting.answer for waiting in accepted]

    def refuse_overload(self, count: int) -> None:
        """Raise what `submit` would raise for so many images, before work is put into them."""
        with self._changed:
            self._admit(count)

    def predicted_wait_s(self) -> float:
        """Seconds until an image that comes now would start, from the measured rate."""
        return (len(self._waiting) + self._running) * self._seconds_per_image

    def _admit(self, count: int) -> None:
        if self._stopping:
            raise Stopping("the server is shutting down; send the request elsewhere")
        wait_s = self.predicted_wait_s()
        if len(self._waiting) + count > self._max_queue:
            raise Overloaded(
                f"{len(self._waiting)} images wait, at most {self._max_queue} may", wait_s
            )
        if wait_s > self._max_wait_s:
            raise Overloaded(
                f"the wait would be {wait_s:.1f} s, at most {self._max_wait_s:.1f} s is accepted",
                wait_s - self._max_wait_s,
            )

    def _lane(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._tasks or self._waiting or self._stopping)
                if self._tasks:
                    batch, member = self._tasks.popleft()
                elif self._waiting:
                    started = self._form_batch()
                    if started is None:
                        continue
                    batch, member = started, 0
                else:
                    return
            if batch.run(member, self._members[member]):
                self._finish(batch)

    def _form_batch(self) -> "_MicroBatch | None":
        """Take what waits, up to a batch; None if everyone in it has left."""
        # With fewer members than lanes one batch cannot fill them, so several share the queue.
        shares = max(1, len(self._threads) // len(self._members))
        size = min(self._max_batch_size, math.ceil(len(self._waiting) / shares))
        taken = [self._waiting.popleft() for _ in range(size)]
        present = [w for w in taken if w.answer.set_running_or_notify_cancel()]
        if not present:
            return None
        batch = _MicroBatch(present, len(self._members))
        self._running += len(present)
        self._tasks.extend((batch, member) for member in range(1, len(self._members)))
        self._changed.notify(len(self._members) - 1)
        if self._waiting:
            self._changed.notify()
        return batch

    def _finish(self, batch: "_MicroBatch") -> None:
        report = batch.report()
        seconds = sum(report.members_s) / len(self._threads) / len(report.waits_s)
        with self._changed:
            self._running -= len(report.waits_s)
            # Moving average over about ten batches; failures say nothing of the rate.
            if not report.failed:
                old = self._seconds_per_image
                self._seconds_per_image = seconds if old == 0 else 0.9 * old + 0.1 * seconds
        batch.answer()
        try:
            self._on_batch(report)
        except Exception:  # whoever counts batches must not end a lane
            log.exception("a finished batch could not be reported")


class _MicroBatch:
    """Images that run together; it finishes when every member has answered."""

    def __init__(self, images: Sequence[_Waiting], members: int) -> None:
        self._images = images
        self._images_BCHW: NDArray[np.uint8] | None = None
        self._logits: list[NDArray[np.float32] | None] = [None] * members
        self._seconds = [0.0] * members
        self._left = members
        self._error: Exception | None = None
        self._started = time.monotonic()
        self._lock = threading.Lock()

    def run(self, index: int, member: MemberCall) -> bool:
        """Ask one member; true if it was the last. An error fails this batch and no other."""
        started = time.monotonic()
        try:
            if self._error is None:
                self._logits[index] = member(self._stacked())
        except Exception as error:  # whatever a member raises, its images must be answered
            self._error = error
        with self._lock:
            self._seconds[index] = time.monotonic() - started
            self._left -= 1
            return self._left == 0

    def report(self) -> BatchReport:
        """How long it took."""
        return BatchReport(
            waits_s=tuple(self._started - waiting.since for waiting in self._images),
            inference_s=time.monotonic() - self._started,
            members_s=tuple(self._seconds),
            failed=self._error is not None,
        )

    def answer(self) -> None:
        """Resolve every future, exactly once."""
        try:
            probs_MBK = self._probabilities()
        except Exception as error:  # of a member, or of answers that do not fit together
            for waiting in self._images:
                failure = InferenceFailed("a member of the ensemble failed; see the server's log")
                failure.__cause__ = error
                waiting.answer.set_exception(failure)
            return
        finite_B = np.asarray(np.isfinite(probs_MBK).all(axis=(0, 2)))
        for row, waiting in enumerate(self._images):
            if finite_B[row]:
                waiting.answer.set_result(probs_MBK[:, row])
            else:
                failure = InferenceFailed("a member gave no number for this image")
                waiting.answer.set_exception(failure)

    def _probabilities(self) -> Floats:
        if self._error is not None:
            raise self._error
        logits_MBK = np.stack([logits for logits in self._logits if logits is not None])
        if logits_MBK.ndim != 3 or logits_MBK.shape[1] != len(self._images):
            raise ValueError(f"logits of shape {logits_MBK.shape} for {len(self._images)} images")
        return softmax(logits_MBK)

    def _stacked(self) -> NDArray[np.uint8]:
        with self._lock:
            if self._images_BCHW is None:
                self._images_BCHW = np.stack([waiting.image_CHW for waiting in self._images])
            return self._images_BCHW
