"""The scheduler: pictures are decoded and members asked, by lanes and from one queue.

A micro-batch forms when a lane has nothing else to do, from whatever waits then: a lone image
starts at once, in full mode with its members spread over the lanes, and under load batches grow by
themselves. Lanes decode until they have a full batch, so that what waits is mostly encoded.

The scheduler refuses nothing as long as it runs; `snapensemble.serving.inference.admission` does.

Shapes: d members asked, K classes.
"""

import heapq
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from snapensemble.contracts.cascade import Mode
from snapensemble.contracts.errors import ImageTooCostly, TakesTime
from snapensemble.serving.errors import Stopping
from snapensemble.serving.inference.aggregate import no_summaries
from snapensemble.serving.inference.batch import (
    TRUNK,
    BatchReport,
    Clock,
    LeaveCall,
    MemberCall,
    MicroBatch,
    Stage,
    SummarizeCall,
    next_stage,
    stages_of,
)
from snapensemble.serving.inference.costly import CostlyPictures, HoldMemory, failure_of
from snapensemble.serving.inference.lanes import Lanes, Task
from snapensemble.serving.inference.request import Image, PendingImage

PATIENCE = 4.0  # how many times its lane time a request counts as having come later
MOST_DECODING_S = 1.0  # processor time to decode the pictures of one request
log = logging.getLogger("snapensemble")


def no_decoder(_: bytes) -> Image:
    """Refuse to decode: the decoder of a scheduler that takes decoded images only."""
    raise TypeError("this scheduler takes decoded images only")


class Turn:
    """The pictures of one request that wait to be decoded, and the time since they do.

    Args:
        stage: where they go when they are decoded.
        pictures: at least one.
    """

    def __init__(self, stage: Stage, pictures: Iterable[PendingImage]) -> None:
        self.stage = stage
        self.pictures = deque(pictures)
        self.since = self.pictures[0].times.accepted
        self._decoding_s = 0.0
        self._is_alone = len(self.pictures) == 1

    def attempt(self, image: PendingImage, decode: Callable[[bytes], Image]) -> Exception | None:
        """Decode one of its pictures, and return the error if that fails."""
        if self._is_alone:  # what one picture may take is bounded already
            return image.attempt(decode)
        if self._decoding_s > MOST_DECODING_S:
            return ImageTooCostly(
                f"the pictures before it in the request took {self._decoding_s:.1f} s of processor "
                f"time to decode, at most {MOST_DECODING_S:.0f} s are spent on one request; send "
                "fewer in each"
            )
        began = time.thread_time()
        failure = image.attempt(decode)
        self._decoding_s += time.thread_time() - began
        if isinstance(failure, TakesTime):  # another thread will decode it, and take so long
            self._decoding_s += failure.seconds
        return failure

    def used(self, seconds: float) -> None:
        """Count the request as having come later, by `PATIENCE` times these seconds of a lane.

        So a request with many pictures has a fifth of the lanes while others keep coming: a form
        of large ones keeps nobody waiting for all of them, and is not kept waiting without end.
        """
        self.since += PATIENCE * seconds


class Turns:
    """The queue of encoded pictures: the request that has waited longest comes first.

    But a request that has had much of the lanes already lets others go ahead.
    """

    def __init__(self) -> None:
        self._turns: list[tuple[float, int, Turn]] = []  # a heap; a turn may be later by now
        self._numbers = itertools.count()
        self._pictures = 0

    def __len__(self) -> int:
        """How many pictures wait."""
        return self._pictures

    def add(self, turn: Turn) -> None:
        """Queue the pictures of one request."""
        self._pictures += len(turn.pictures)
        heapq.heappush(self._turns, (turn.since, next(self._numbers), turn))

    def take(self) -> tuple[Turn, PendingImage]:
        """Take the next picture of the request whose turn it is; the queue must not be empty."""
        since, number, turn = self._turns[0]
        while turn.since > since:
            heapq.heapreplace(self._turns, (turn.since, number, turn))
            since, number, turn = self._turns[0]
        self._pictures -= 1
        image = turn.pictures.popleft()
        if not turn.pictures:
            heapq.heappop(self._turns)
        return turn, image


class Scheduler:
    """Runs every picture through its members, on lanes that other schedulers may share.

    Use as a context manager: on leaving, nothing new is accepted, every accepted image is
    answered, and the lanes are left.

    Args:
        members: each maps images_BCHW to logits_BK; called from any lane, also at the same time.
        trunk: maps images_BCHW to the features that members take instead, if they share one.
        lanes: the threads that run all of it.
        max_batch_size: images that run together at most.
        split_above_s: predicted wait above which a micro-batch takes half of what waits.
        decode: makes images of pictures, on any lane; raises TakesTime if one would keep it long.
        decode_costly: makes images of those, on a thread of its own; as `decode` unless given.
        hold_memory: entered around each call of `decode_costly`, with the bytes that it takes.
        count_bytes: called with the bytes of features that have come; below 0 when they are free.
        leaves: the rule of the cascade; without it there is full mode only.
        summarize: makes the `summary` of each `Answer` from the members' distributions.
        on_decode: called on a lane after each picture, with seconds; must be quick.
        on_batch: callbacks, each called on a lane after each micro-batch; must be quick, too.
        on_wait: called under the lock for one image of each answered micro-batch, with the wait
            that was predicted for it and the one that it had, seconds.
    """

    def __init__(
        self,
        members: Sequence[MemberCall],
        *,
        trunk: MemberCall | None = None,
        lanes: Lanes,
        max_batch_size: int,
        split_above_s: float = 0.02,
        decode: Callable[[bytes], Image] = no_decoder,
        decode_costly: Callable[[bytes], Image] | None = None,
        hold_memory: HoldMemory = lambda _: nullcontext(),
        count_bytes: Callable[[int], None] = lambda _: None,
        leaves: LeaveCall | None = None,
        summarize: SummarizeCall = no_summaries,
        on_decode: Callable[[float], None] = lambda _: None,
        on_batch: Sequence[Callable[[BatchReport], None]] = (),
        on_wait: Callable[[float, float], None] = lambda *_: None,
    ) -> None:
        self._lanes = lanes
        self._lock = lanes.lock
        self._members = members
        self._trunk = trunk
        self._count_bytes = count_bytes
        self._max_batch_size = max_batch_size
        self._split_above_s = split_above_s
        self._decode = decode
        self._summarize = summarize
        self._on_decode = on_decode
        self._on_batch = on_batch
        self._on_wait = on_wait
        self.closed = False
        self.unclaimed = 0  # unanswered images that no request counts
        self._stages, self._entries = stages_of(len(members), leaves, has_trunk=trunk is not None)
        self._encoded = Turns()
        self._costly = CostlyPictures(
            decode_costly or decode, hold_memory, self._has_decoded_costly
        )
        self._tasks: deque[Task] = deque()

    def __enter__(self) -> "Scheduler":
        self._lanes.join(self)
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self.closed = True
        self._lanes.leave(self)
        self._costly.close()

    @property
    def threads(self) -> int:
        """How many lanes there are."""
        return self._lanes.threads

    @property
    def queued(self) -> int:
        """Images that wait to be decoded, or for their first member."""
        return len(self._encoded) + self._decoded

    @property
    def predicted_wait_s(self) -> float:
        """Seconds until an image that comes now would be answered, from the measured rates."""
        return self._lanes.wait_s(self)

    @property
    def backlog_s(self) -> float:
        """Seconds that the unanswered images would take with all lanes."""
        return sum([stage.load.wait_s for stage in self._entries.values()])

    @property
    def is_over(self) -> bool:
        """Whether nothing more is accepted and all is answered; the lock is held."""
        return (
            self.closed
            and not (self._tasks or self._encoded or self._costly.pending)
            and all(not stage.waiting for stage in self._stages)
        )

    @property
    def _decoded(self) -> int:
        return sum([len(stage.waiting) for stage in self._entries.values()])

    def submit(
        self, images: Sequence[PendingImage], mode: Mode = "full", *, wake: bool = True
    ) -> None:
        """Answer each of these images of one request, sooner or later and exactly once.

        The future of an image gets the distributions of the members asked, probs_dK, or what
        `decode` raised; its `cut_short` gives those that are there already. If it is cancelled,
        its image is taken out before it is decoded, or before the next micro-batch.

        Args:
            images: that nobody has submitted yet.
            mode: `full` asks every member, `cascade` as many as the image needs.
            wake: whether to wake idle lanes; if not, somebody must call `wake` soon.

        Raises:
            Stopping: the lanes are ending, and nobody would answer.
        """
        entry = self._entries[mode]
        encoded = [image for image in images if not image.is_decoded]
        with self._lock:
            if self.closed:
                raise Stopping("the server is shutting down; send the request elsewhere")
            if encoded:
                self._encoded.add(Turn(entry, encoded))
            if len(encoded) < len(images):
                entry.waiting.extend(image for image in images if image.is_decoded)
            entry.load.unanswered += len(images)
            for image in images:
                image.is_queued = True
                self.unclaimed += not image.is_claimed
        if wake:
            self.wake(len(images))

    def wake(self, count: int) -> None:
        """Wake idle lanes for so many pictures."""
        with self._lock:
            self._lanes.notify(count)

    def disown(self, images: Iterable[PendingImage]) -> None:
        """Count the unanswered images of a request that is over as unclaimed."""
        with self._lock:
            for image in images:
                if image.is_queued and image.is_claimed:
                    image.is_claimed = False
                    self.unclaimed += 1

    def next_task(self) -> Task | None:
        """Something for a lane to do; None if there is nothing now. The lock is held."""
        while True:
            if self._tasks:
                return self._tasks.popleft()
            if self._encoded and self._decoded < self._max_batch_size:
                return partial(self._decode_picture, *self._encoded.take())
            stage = next_stage(self._stages)
            if stage is None:
                return None
            self._form_batch(stage)

    def _decode_picture(self, turn: Turn, image: PendingImage, clock: Clock) -> None:
        failure = turn.attempt(image, self._decode)
        if has_left := image.has_left():
            failure = None
        with self._lock:
            if handed_over := isinstance(failure, TakesTime):
                failure = self._costly.hand_over(turn.stage, image, failure)
            # Images are counted as begun by their micro-batch; those that end here began here.
            turn.stage.load.measured(clock.lap() / self.threads, int(failure is not None))
            turn.used(max(image.times.decode_s, turn.stage.load.image_s))
            if not handed_over or failure is not None:
                self._has_decoded(turn.stage, image, is_over=has_left or failure is not None)
        if failure is not None:
            image.resolve(failure_of(failure))
        if not (has_left or handed_over):
            self._notify(self._on_decode, image.times.decode_s)

    def _has_decoded_costly(
        self, stage: Stage, image: PendingImage, cost: TakesTime, failure: Exception | None
    ) -> None:
        has_left = image.has_left()
        with self._lock:
            self._costly.forget(cost)
            self._has_decoded(stage, image, is_over=has_left or failure is not None)
            self._lanes.notify(1)
            self._lanes.look_whether_over(self)
        if has_left:
            return
        if failure is not None:
            image.resolve(failure)
        self._notify(self._on_decode, image.times.decode_s)

    def _has_decoded(self, stage: Stage, image: PendingImage, *, is_over: bool) -> None:
        """Let an image wait for its first member, unless it has failed or its caller has left.

        No lane is woken: the one that has decoded it is free as soon as it has the lock back.
        """
        if is_over:
            self._let_go(stage, [image])
        else:
            stage.waiting.append(image)

    def _let_go(self, stage: Stage, images: Sequence[PendingImage]) -> None:
        """Owe these images no answer any more; the lock is held."""
        stage.load.unanswered -= len(images)
        for image in images:
            image.is_queued = False
            self.unclaimed -= not image.is_claimed
        if freed := sum([image.drop_features() for image in images]):
            self._count_bytes(-freed)

    def _run_member(self, stage: Stage, batch: MicroBatch, place: int, clock: Clock) -> None:
        member = self._trunk if place == TRUNK else self._members[place]
        assert member is not None
        if batch.run(place, member, clock):
            self._finish(stage, batch)

    def _form_batch(self, stage: Stage) -> None:
        """Turn what waits, up to a batch, into tasks; into none if everyone in it has left."""
        # With fewer members than lanes one batch cannot fill them, so several share the stage.
        # If all ran together, all would be answered together, and the lanes idle meanwhile.
        shares = max(1, self.threads // len(stage.members))
        if stage.load.wait_s > self._split_above_s:
            shares = max(2, shares)
        size = min(self._max_batch_size, math.ceil(len(stage.waiting) / shares))
        present, left = stage.take(size)
        self._let_go(stage, left)
        if not present:
            return
        batch = stage.batch(present, self._summarize)
        self._tasks.extend(
            partial(self._run_member, stage, batch, place) for place in stage.members
        )
        self._lanes.notify(len(stage.members) - 1 + bool(stage.waiting))

    def _finish(self, stage: Stage, batch: MicroBatch) -> None:
        outcome = batch.outcome()
        if outcome.features_bytes:
            self._count_bytes(outcome.features_bytes)
        report = batch.report(outcome)
        with self._lock:
            self._let_go(stage, [image for image, _ in outcome.answers])
            for image, _ in outcome.answers[:1]:  # the first stands for all
                waited_s = time.monotonic() - image.times.accepted
                self._on_wait(image.times.predicted_s, waited_s)
            if not outcome.failed:  # failures say nothing of the rate
                stage.load.measured(batch.lane_s / self.threads, len(report.waits_s))
            if stage.following is not None:
                # No lane is woken for them: this one is free as soon as it has answered the others.
                stage.following.waiting.extend(outcome.going_on)
        # To explain an answer takes some milliseconds, which the others need not wait for.
        for image, answer in sorted(outcome.answers, key=lambda each: each[0].asked is not None):
            image.resolve(answer)
        for callback in self._on_batch:
            self._notify(callback, report)

    def _notify(self, callback: Callable[[Any], None], argument: object) -> None:
        try:
            callback(argument)
        except Exception:  # a callback that fails must not end a lane
            log.exception("what a lane has done could not be reported")
