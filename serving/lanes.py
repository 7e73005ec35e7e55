"""Lanes: threads that take (micro-batch, member) tasks from one queue.

A micro-batch forms when a lane has nothing else to do, from whatever waits then: a lone image
starts at once with its members spread over the lanes, and under load batches grow by themselves.

Shapes: M members, K classes.
"""

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from contracts.figures import Floats
from serving.errors import Overloaded, Stopping
from serving.micro_batch import BatchReport, Image, MemberCall, MicroBatch, Waiting

log = logging.getLogger("snapensemble")


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
        self._waiting: deque[Waiting] = deque()
        self._tasks: deque[tuple[MicroBatch, int]] = deque()
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

    def __exit__(self, *error: object) -> None:
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
            accepted = [Waiting(image_CHW, Future()) for image_CHW in images]
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

    def _form_batch(self) -> MicroBatch | None:
        """Take what waits, up to a batch; None if everyone in it has left."""
        # With fewer members than lanes one batch cannot fill them, so several share the queue.
        shares = max(1, len(self._threads) // len(self._members))
        size = min(self._max_batch_size, math.ceil(len(self._waiting) / shares))
        taken = [self._waiting.popleft() for _ in range(size)]
        present = [w for w in taken if w.answer.set_running_or_notify_cancel()]
        if not present:
            return None
        batch = MicroBatch(present, len(self._members))
        self._running += len(present)
        self._tasks.extend((batch, member) for member in range(1, len(self._members)))
        self._changed.notify(len(self._members) - 1)
        if self._waiting:
            self._changed.notify()
        return batch

    def _finish(self, batch: MicroBatch) -> None:
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
