"""Lanes: threads that decode pictures and run (micro-batch, member) tasks, from one queue.

A micro-batch forms when a lane has nothing else to do, from whatever waits then: a lone image
starts at once, in full mode with its members spread over the lanes, and under load batches grow by
themselves. Lanes decode until they have a full batch, so that what waits is mostly encoded.

Shapes: d members asked, K classes.
"""

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from snapensemble.contracts.cpu import stand_back
from snapensemble.contracts.errors import TakesTime
from snapensemble.serving.clock import Clock
from snapensemble.serving.inference.aggregate import no_summaries
from snapensemble.serving.inference.batch import (
    BatchReport,
    LeaveCall,
    MemberCall,
    MicroBatch,
    SummarizeCall,
)
from snapensemble.serving.inference.costly import CostlyPictures, HoldMemory, failure_of
from snapensemble.serving.inference.request import Answer, Image, Picture, Waiting, no_decoder
from snapensemble.serving.lobby import Lobby
from snapensemble.serving.stages import Mode, Stage, next_stage, stages_of
from snapensemble.serving.turns import Turn

log = logging.getLogger("snapensemble")
Task = Callable[[Clock], None]


class Lanes:
    """Runs every picture through its members, on `threads` threads.

    Use as a context manager: on leaving, nothing new is accepted, every accepted image is
    answered, and the threads end.

    Args:
        members: each maps images_BCHW to logits_BK; called from any lane, also at the same time.
        threads: how many lanes.
        max_batch_size: images that run together at most.
        max_queue: images that wait at most.
        max_wait_s: predicted wait above which images are refused.
        split_above_s: predicted wait above which a micro-batch takes half of what waits.
        decode: makes images of pictures, on any lane; raises TakesTime if one would keep it long.
        decode_costly: makes images of those, on a thread of its own; as `decode` unless given.
        hold_memory: around each call of `decode_costly`, with the bytes that it takes at most.
        leaves: the rule of the cascade; without it there is full mode only.
        summarize: what members say of answered images -> the `summary` of each `Answer`.
        on_decode: called on a lane after each picture, with seconds; must be quick.
        on_batch: called on a lane after each micro-batch; likewise.
    """

    def __init__(
        self,
        members: Sequence[MemberCall],
        *,
        threads: int,
        max_batch_size: int,
        max_queue: int,
        max_wait_s: float = math.inf,
        split_above_s: float = 0.02,
        decode: Callable[[bytes], Image] = no_decoder,
        decode_costly: Callable[[bytes], Image] | None = None,
        hold_memory: HoldMemory = lambda _: nullcontext(),
        leaves: LeaveCall | None = None,
        summarize: SummarizeCall = no_summaries,
        on_decode: Callable[[float], None] = lambda _: None,
        on_batch: Callable[[BatchReport], None] = lambda _: None,
    ) -> None:
        self.threads = threads
        self._members = members
        self._max_batch_size = max_batch_size
        self._split_above_s = split_above_s
        self._decode = decode
        self._summarize = summarize
        self._on_decode = on_decode
        self._on_batch = on_batch
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._stages, entries = stages_of(len(members), leaves)
        self._lobby = Lobby(entries, max_queue=max_queue, max_wait_s=max_wait_s)
        self._costly = CostlyPictures(decode_costly or decode, hold_memory, self._decoded_costly)
        self._tasks: deque[Task] = deque()
        self._threads = [
            threading.Thread(target=self._lane, name=f"lane-{i}", daemon=True)
            for i in range(threads)
        ]

    def __enter__(self) -> "Lanes":
        for thread in self._threads:
            thread.start()
        self._costly.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._lobby.closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._costly.close()

    @property
    def queued(self) -> int:
        """Images that wait to be decoded, or for their first member."""
        return self._lobby.queued

    def submit(
        self, pictures: Sequence[Picture], mode: Mode = "full", *, wake: bool = True
    ) -> list[Answer]:
        """Accept all pictures of a request or none.

        A future that is cancelled takes its picture out before it is decoded, or before the next
        micro-batch.

        Args:
            pictures: encoded, or arrays of the shape that the members take.
            mode: `full` asks every member, `cascade` as many as the image needs.
            wake: idle lanes; or else somebody must call `wake` soon.

        Returns:
            One future per picture: the distributions of the members asked, probs_dK, or what
            `decode` raised. `cut_short` gives those that are there already.

        Raises:
            Overloaded: the queue is full, or the wait would be too long.
            Stopping: the lanes are being closed.
        """
        with self._lock:
            answers = self._lobby.accept(pictures, mode)
        if wake:
            self.wake(len(pictures))
        return answers

    def wake(self, count: int) -> None:
        """Wake idle lanes for so many pictures."""
        with self._lock:
            self._changed.notify(count)

    def refuse_overload(self, count: int, within_s: float = math.inf) -> None:
        """Raise what `submit` would raise for so many images, before work is put into them.

        Args:
            count: images.
            within_s: when their sender needs the answer; a longer wait is refused too.
        """
        self._lobby.refuse_overload(count, within_s)

    def _lane(self) -> None:
        stand_back()  # for the thread that answers clients, also those that are refused
        clock = Clock()
        while (task := self._next_task(clock)) is not None:
            task(clock)

    def _next_task(self, clock: Clock) -> Task | None:
        """Wait for something to do; None if nothing will come.

        A lane may end while another one runs images that will go on: that one takes them up.
        """
        with self._lock:
            while True:
                if self._tasks:
                    return self._tasks.popleft()
                if self._lobby.encoded and self._lobby.decoded < self._max_batch_size:
                    return partial(self._decode_picture, *self._lobby.encoded.take())
                stage = next_stage(self._stages)
                if stage is not None:
                    self._form_batch(stage)
                elif self._lobby.closed and not self._costly.pending:
                    return None
                else:
                    self._changed.wait()
                    clock.lap()  # idle: nobody pays

    def _decode_picture(self, turn: Turn, waiting: Waiting, clock: Clock) -> None:
        failure = turn.attempt(waiting, self._decode)
        if has_left := waiting.has_left():
            failure = None
        with self._lock:
            if handed_over := isinstance(failure, TakesTime):
                failure = self._costly.hand_over(turn.stage, waiting, failure)
            # Images are counted as begun by their micro-batch; those that end here began here.
            turn.stage.load.measured(clock.lap() / self.threads, int(failure is not None))
            turn.used(max(waiting.times.decode_s, turn.stage.load.image_s))
            if not handed_over or failure is not None:
                turn.stage.decoded(waiting, is_over=has_left or failure is not None)
        if failure is not None:
            waiting.resolve(failure_of(failure))
        if not (has_left or handed_over):
            self._tell(self._on_decode, waiting.times.decode_s)

    def _decoded_costly(
        self, stage: Stage, waiting: Waiting, cost: TakesTime, failure: Exception | None
    ) -> None:
        has_left = waiting.has_left()
        with self._lock:
            self._costly.forget(cost)
            stage.decoded(waiting, is_over=has_left or failure is not None)
            self._changed.notify_all()  # also those that wait for the end
        if has_left:
            return
        if failure is not None:
            waiting.resolve(failure)
        self._tell(self._on_decode, waiting.times.decode_s)

    def _run_member(self, stage: Stage, batch: MicroBatch, member: int, clock: Clock) -> None:
        if batch.run(member, self._members[member], clock):
            self._finish(stage, batch)

    def _form_batch(self, stage: Stage) -> None:
        """Turn what waits, up to a batch, into tasks; into none if everyone in it has left."""
        # With fewer members than lanes one batch cannot fill them, so several share the stage.
        # If all ran together, all would be answered together, and the lanes idle meanwhile.
        shares = max(1, self.threads // len(stage.members))
        if stage.load.wait_s > self._split_above_s:
            shares = max(2, shares)
        size = min(self._max_batch_size, math.ceil(len(stage.waiting) / shares))
        present = stage.take(size)
        if not present:
            return
        batch = MicroBatch(present, stage.members, is_last=stage.following is None)
        self._tasks.extend(
            partial(self._run_member, stage, batch, member) for member in stage.members
        )
        self._changed.notify(len(stage.members) - 1 + bool(stage.waiting))

    def _finish(self, stage: Stage, batch: MicroBatch) -> None:
        outcome = batch.outcome(stage.leaves, self._summarize)
        report = batch.report(outcome, self.queued)
        with self._lock:
            self._lobby.answered(stage, [waiting for waiting, _ in outcome.answers])
            if not outcome.failed:  # failures say nothing of the rate
                stage.load.measured(batch.lane_s / self.threads, len(report.waits_s))
            if stage.following is not None:
                # No lane is woken for them: this one is free as soon as it has answered the others.
                stage.following.waiting.extend(outcome.going_on)
        for waiting, answer in outcome.answers:
            waiting.resolve(answer)
        self._tell(self._on_batch, report)

    def _tell(self, listener: Callable[[Any], None], what: object) -> None:
        try:
            listener(what)
        except Exception:  # whoever counts must not end a lane
            log.exception("what a lane has done could not be reported")
