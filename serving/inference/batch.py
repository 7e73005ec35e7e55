"""A micro-batch: images that are asked about together, and what becomes of each.

Shapes: M members, d members asked so far, B images, C channels, H height, W width, K classes.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.metrics import Floats, softmax
from snapensemble.serving.clock import Clock
from snapensemble.serving.errors import InferenceFailed
from snapensemble.serving.inference.aggregate import Summary
from snapensemble.serving.inference.request import Said, Waiting

MemberCall = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
LeaveCall = Callable[[Floats], NDArray[np.bool_]]  # probs_dBK -> leaves_B
SummarizeCall = Callable[[Floats], Sequence[Summary | None]]  # probs_dBK -> one per image


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What one finished micro-batch took, seconds, and whom it answered."""

    images: int
    waits_s: tuple[float, ...]  # of images that were new: from submission, without decoding
    inference_s: float  # from the start to the last member's answer
    members_s: tuple[float, ...]  # per member asked; 0 for those skipped after a failure
    answered: int  # images that got a distribution, each from `members_used` members
    members_used: int
    failed: bool
    members_answered: tuple[int, ...] = ()
    members_failed: tuple[int, ...] = ()  # those that raised an error
    queued: int = 0  # images that waited for their first member when it was finished


@dataclass(frozen=True, slots=True)
class Outcome:
    """Who gets which answer, and who goes on to the next member."""

    answers: list[tuple[Waiting, Floats | InferenceFailed]]
    going_on: list[Waiting]
    failed: bool = False  # the whole batch


class MicroBatch:
    """Images that run together; it finishes when each of `members` has answered.

    Args:
        images: of one stage.
        members: to ask.
        is_last: whether no image is asked about more members afterwards.
    """

    def __init__(self, images: Sequence[Waiting], members: range, *, is_last: bool = True) -> None:
        self.members = members
        self._is_last = is_last
        self._images = images
        self._earlier = [waiting.probs_dK for waiting in images]
        self._started = time.monotonic()
        for row, waiting in enumerate(images):
            waiting.answer.so_far = partial(self.so_far, row)
            waiting.times.begun = waiting.times.begun or self._started
        self._images_BCHW: NDArray[np.uint8] | None = None
        self._logits: list[NDArray[np.float32] | None] = [None] * len(members)
        self._seconds = [0.0] * len(members)
        self._left = len(members)
        self.lane_s = 0.0
        self._error: Exception | None = None
        self._failed: list[int] = []
        self._lock = threading.Lock()

    def run(self, index: int, member: MemberCall, clock: Clock) -> bool:
        """Ask one member; true if it was the last. An error fails this batch and no other.

        Args:
            index: of the member.
            member: the member.
            clock: of the lane, whose time since its last lap counts as spent on this batch.
        """
        place = index - self.members.start
        started = time.monotonic()
        try:
            if self._error is None:
                logits_BK = member(self._stacked())
                if logits_BK.ndim != 2 or len(logits_BK) != len(self._images):
                    raise ValueError(
                        f"logits of shape {logits_BK.shape} for {len(self._images)} images"
                    )
                self._logits[place] = logits_BK
        except Exception as error:  # whatever a member raises, its images must be answered
            self._error = error
            self._failed.append(index)
        with self._lock:
            self._seconds[place] = time.monotonic() - started
            self.lane_s += clock.lap()
            self._left -= 1
            return self._left == 0

    def so_far(self, row: int) -> Said | None:
        """What members have said of one image, in this batch and before; None if nothing yet."""
        said = [
            (member, logits_BK[row])
            for member, logits_BK in zip(self.members, self._logits, strict=True)
            if logits_BK is not None
        ]
        probs_dK = [softmax(np.stack([logits_K for _, logits_K in said]))] if said else []
        if (earlier_dK := self._earlier[row]) is not None:
            probs_dK.insert(0, earlier_dK)
        if not probs_dK or self._error is not None:
            return None
        whole_dK = np.concatenate(probs_dK)
        if not np.isfinite(whole_dK).all():
            return None
        if self._is_last and len(said) == len(self.members):
            return Said(whole_dK)  # all that will be said
        return Said(whole_dK, (*range(self.members.start), *(member for member, _ in said)))

    def outcome(self, leaves: LeaveCall | None, summarize: SummarizeCall) -> Outcome:
        """What becomes of each image now that its members have answered.

        Args:
            leaves: whose answer is safe already; everyone's if not given.
            summarize: told what the members have said of those who get an answer.
        """
        try:
            probs_dBK = self._probabilities()
            finite_B = np.asarray(np.isfinite(probs_dBK).all(axis=(0, 2)))
            leaves_B = np.ones(len(self._images), dtype=bool)
            if leaves is not None:
                leaves_B[finite_B] = leaves(probs_dBK[:, finite_B])
            answered_B = finite_B & leaves_B
            summaries = iter(summarize(probs_dBK[:, answered_B]) if answered_B.any() else ())
        except Exception as error:  # of a member, or of answers that do not fit together
            failure = InferenceFailed.caused_by(error, "a member of the ensemble failed")
            return Outcome([(waiting, failure) for waiting in self._images], [], True)
        outcome = Outcome([], [])
        for row, waiting in enumerate(self._images):
            if not finite_B[row]:
                failure = InferenceFailed("a member gave no number for this image")
                outcome.answers.append((waiting, failure))
            elif leaves_B[row]:
                waiting.answer.summary = next(summaries)
                outcome.answers.append((waiting, probs_dBK[:, row]))
            else:
                waiting.probs_dK = probs_dBK[:, row]
                outcome.going_on.append(waiting)
        return outcome

    def report(self, outcome: Outcome, queued: int) -> BatchReport:
        """How long it took, and whom it answered."""
        new = self._images if self.members.start == 0 else ()
        return BatchReport(
            images=len(self._images),
            waits_s=tuple(self._started - w.times.accepted - w.times.decode_s for w in new),
            inference_s=time.monotonic() - self._started,
            members_s=tuple(self._seconds),
            answered=sum(not isinstance(a, InferenceFailed) for _, a in outcome.answers),
            members_used=self.members.stop,
            failed=outcome.failed,
            members_answered=tuple(
                member
                for member, logits in zip(self.members, self._logits, strict=True)
                if logits is not None
            ),
            members_failed=tuple(self._failed),
            queued=queued,
        )

    def _probabilities(self) -> Floats:
        """probs_dBK of all members asked so far, in this batch and before."""
        if self._error is not None:
            raise self._error
        probs_MBK = softmax(np.stack([logits for logits in self._logits if logits is not None]))
        earlier = [probs_dK for probs_dK in self._earlier if probs_dK is not None]
        return np.concatenate([np.stack(earlier, axis=1), probs_MBK]) if earlier else probs_MBK

    def _stacked(self) -> NDArray[np.uint8]:
        with self._lock:
            if self._images_BCHW is None:
                self._images_BCHW = np.stack([waiting.image_CHW for waiting in self._images])
            return self._images_BCHW
