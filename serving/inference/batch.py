"""Stages, where images wait for their next members, and micro-batches, in which they meet them.

In full mode there is one stage, whose micro-batches ask all members side by side. A cascade has a
stage per member: images whose answer is safe leave after it, the others go on to the next. Where
the members share a trunk, a stage for it comes first in both; its features take the place of the
images.

Shapes: M members, d members asked so far, B images, K classes.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.bundle import BundleManifest
from snapensemble.contracts.cascade import Mode
from snapensemble.contracts.metrics import Floats, softmax
from snapensemble.serving.errors import InferenceFailed
from snapensemble.serving.inference.aggregate import Summary
from snapensemble.serving.inference.explain import GivesMaps
from snapensemble.serving.inference.request import MemberOutputs, PendingImage

Inputs = NDArray[Any]  # images_BCHW, uint8, or what the trunk gives for them, float32
MemberCall = Callable[[Inputs], NDArray[np.float32]]
LeaveCall = Callable[[Floats], NDArray[np.bool_]]  # probs_dBK -> leaves_B
SummarizeCall = Callable[[Floats], Sequence[Summary | None]]  # probs_dBK -> one per image
TRUNK = -1  # its place, before those of the members, which count from 0


def names_by_place(bundle: BundleManifest) -> dict[int, str]:
    """What reports call the trunk, if there is one, and each member."""
    names = dict(enumerate(member.name for member in bundle.members))
    return names if bundle.trunk is None else {TRUNK: bundle.trunk.name, **names}


class Clock:
    """Measures the time of a lane without gaps: under load much of it is waiting for a lock."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def lap(self) -> float:
        """Return the seconds since the last call."""
        now = time.monotonic()
        since, self._since = self._since, now
        return now - since


@dataclass(slots=True)
class Load:
    """The unanswered images of a mode, and what one has cost lately."""

    unanswered: int = 0
    image_s: float = 0.0  # what an image takes of all lanes; 0 before anything is measured
    _seconds: float = 0.0
    _begun: float = 0.0

    def measured(self, seconds: float, begun: int) -> None:
        """Count a micro-batch and how many of its images were new.

        Work and images are summed apart, since later stages of a cascade are work for images
        that began before. Both sums forget what about ten batches of new images ago was.
        """
        kept = 0.9 if begun else 1.0
        self._seconds = kept * self._seconds + seconds
        self._begun = kept * self._begun + begun
        self.image_s = self._seconds / self._begun if self._begun else 0.0

    @property
    def wait_s(self) -> float:
        """Seconds until the unanswered images are answered; 0 before anything is measured."""
        return self.unanswered * self.image_s


@dataclass(slots=True)
class Stage:
    """Images that wait for the same members, or for the trunk."""

    members: range  # places of those that a micro-batch asks side by side
    load: Load
    leaves: LeaveCall | None = None  # which images to answer after these members; None: all
    following: "Stage | None" = None  # where the other images go
    waiting: deque[PendingImage] = field(default_factory=deque)

    def take(self, count: int) -> tuple[list[PendingImage], list[PendingImage]]:
        """Take the first so many images out: those that are waited for, and those that are not."""
        present: list[PendingImage] = []
        left: list[PendingImage] = []
        for _ in range(count):
            image = self.waiting.popleft()
            (left if image.has_left() else present).append(image)
        return present, left

    def batch(self, images: Sequence[PendingImage], summarize: SummarizeCall) -> "MicroBatch":
        """A micro-batch that asks this stage's members, or the trunk, about images."""
        if self.members.start == TRUNK:
            return TrunkBatch(images, self.members)
        is_last = self.following is None
        return MemberBatch(images, self.members, self.leaves, summarize, is_last=is_last)


def trunk_stage(following: Stage) -> Stage:
    """The stage of the trunk, before the first one of a mode."""
    return Stage(range(TRUNK, 0), following.load, following=following)


def full_stage(members: int) -> Stage:
    """The one stage of full mode."""
    return Stage(range(members), Load())


def cascade_stages(members: int, leaves: LeaveCall) -> list[Stage]:
    """A stage per member, in their order."""
    load = Load()
    stages = [Stage(range(index, index + 1), load) for index in range(members)]
    for stage, following in pairwise(stages):
        stage.leaves, stage.following = leaves, following
    return stages


def stages_of(
    members: int, leaves: LeaveCall | None, *, has_trunk: bool = False
) -> tuple[list[Stage], dict[Mode, Stage]]:
    """All stages, and the one in which images of each mode wait first."""
    modes: dict[Mode, list[Stage]] = {"full": [full_stage(members)]}
    if leaves is not None:
        modes["cascade"] = cascade_stages(members, leaves)
    if has_trunk:
        modes = {mode: [trunk_stage(stages[0]), *stages] for mode, stages in modes.items()}
    entries = {mode: stages[0] for mode, stages in modes.items()}
    return [stage for stages in modes.values() for stage in stages], entries


def next_stage(stages: Iterable[Stage]) -> Stage | None:
    """The stage whose first image was accepted earliest; None if nobody waits."""
    busy = [stage for stage in stages if stage.waiting]
    return min(busy, key=lambda stage: stage.waiting[0].times.accepted, default=None)


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What one finished micro-batch took, seconds, and whom it answered.

    A trunk counts as a member here, and of `members_used` it is none.
    """

    images: int
    waits_s: tuple[float, ...]  # of new images, from submission to the start, less decoding
    inference_s: float  # from the start to the last member's answer
    members_s: tuple[float, ...]  # per member asked; 0 for those skipped after a failure
    answered: int  # images that got a distribution, each from `members_used` members
    members_used: int
    failed: bool
    members_answered: tuple[int, ...] = ()  # their places
    members_failed: tuple[int, ...] = ()  # places of those that raised an error


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of the images of a micro-batch: answers, or more members."""

    answers: list[tuple[PendingImage, Floats | InferenceFailed]]
    going_on: list[PendingImage]  # to the next member
    failed: bool = False  # whether the whole batch failed
    features_bytes: int = 0  # what a trunk has given to those that go on


class MicroBatch(ABC):
    """Images that run together; it finishes when each of `members` has answered.

    Args:
        images: of one stage.
        members: places of the members to ask.
    """

    gives: ClassVar[str]  # what a member answers

    def __init__(self, images: Sequence[PendingImage], members: range) -> None:
        self.members = members
        self._images = images
        self._started = time.monotonic()
        self._new = [image for image in images if image.times.begun is None]
        for image in self._new:
            image.times.begun = self._started
        self._stack_B: Inputs | None = None
        self._outputs: list[NDArray[np.float32] | None] = [None] * len(members)
        self._seconds = [0.0] * len(members)
        self._left = len(members)
        self.lane_s = 0.0
        self._error: Exception | None = None
        self._failed: list[int] = []
        self._lock = threading.Lock()

    def run(self, index: int, member: MemberCall, clock: Clock) -> bool:
        """Ask one member; True if it was the last. An error fails this batch and no other.

        Args:
            index: the place of the member in the bundle.
            member: the member.
            clock: that of the lane; the time since its last lap counts as spent on this batch.
        """
        place = index - self.members.start
        started = time.monotonic()
        try:
            if self._error is None:
                outputs_B = self._ask(index, member)
                if not self._fits(outputs_B):
                    raise ValueError(
                        f"{self.gives} of shape {outputs_B.shape} for {len(self._images)} images"
                    )
                self._outputs[place] = outputs_B
        except Exception as error:  # whatever a member raises, its images must be answered
            self._error = error
            self._failed.append(index)
        with self._lock:
            self._seconds[place] = time.monotonic() - started
            self.lane_s += clock.lap()
            self._left -= 1
            return self._left == 0

    def _ask(self, index: int, member: MemberCall) -> NDArray[np.float32]:
        """Ask a member; if any image needs its feature maps, for those of all, too."""
        if not any(image.asked and image.asked.needs_maps_of(index) for image in self._images):
            return member(self._stacked())
        assert isinstance(member, GivesMaps)
        outputs_B, maps_BChw = member.with_maps(self._stacked())
        for row, image in enumerate(self._images):
            image.keep_maps(index, member, None if maps_BChw is None else maps_BChw[row])
        return outputs_B

    @abstractmethod
    def outcome(self) -> Outcome:
        """Decide what becomes of each image, now that its members have answered."""

    def report(self, outcome: Outcome) -> BatchReport:
        """Report how long the batch took, and whom it answered."""
        return BatchReport(
            images=len(self._images),
            waits_s=tuple(self._started - i.times.accepted - i.times.decode_s for i in self._new),
            inference_s=time.monotonic() - self._started,
            members_s=tuple(self._seconds),
            answered=sum(not isinstance(a, InferenceFailed) for _, a in outcome.answers),
            members_used=self.members.stop,
            failed=outcome.failed,
            members_answered=tuple(
                member
                for member, outputs_B in zip(self.members, self._outputs, strict=True)
                if outputs_B is not None
            ),
            members_failed=tuple(self._failed),
        )

    def _fits(self, outputs_B: NDArray[np.float32]) -> bool:
        return outputs_B.ndim >= 2 and len(outputs_B) == len(self._images)

    def _failed_by(self, error: Exception, which: str) -> Outcome:
        failure = InferenceFailed.caused_by(error, f"{which} of the ensemble failed")
        return Outcome([(image, failure) for image in self._images], [], True)

    def _stacked(self) -> Inputs:
        with self._lock:
            if self._stack_B is None:
                self._stack_B = np.stack([image.inputs for image in self._images])
            return self._stack_B


class TrunkBatch(MicroBatch):
    """Asks the trunk, whose features take the place of the images' pixels."""

    gives = "features"

    def outcome(self) -> Outcome:
        """All images go on, each with features of its own, unless the trunk has failed."""
        try:
            if self._error is not None:
                raise self._error
            (features_B,) = self._outputs
            assert features_B is not None
            # Copies, so that an image that is over frees what it had.
            copies = [features.copy() for features in features_B]
        except Exception as error:  # raised by the trunk, or there is no memory for the copies
            return self._failed_by(error, "the trunk")
        for image, features in zip(self._images, copies, strict=True):
            image.give_features(features)
        return Outcome([], list(self._images), features_bytes=features_B.nbytes)


class MemberBatch(MicroBatch):
    """Asks members, and answers the images that need no more of them.

    Args:
        images: of one stage.
        members: places of the members to ask.
        leaves: says whose answer is safe already; everyone's is if not given.
        summarize: makes summaries from the distributions of images that get an answer.
        is_last: whether no image is asked about more members afterwards.
    """

    gives = "logits"

    def __init__(
        self,
        images: Sequence[PendingImage],
        members: range,
        leaves: LeaveCall | None,
        summarize: SummarizeCall,
        *,
        is_last: bool,
    ) -> None:
        super().__init__(images, members)
        self._leaves = leaves
        self._summarize = summarize
        self._is_last = is_last
        self._earlier = [image.probs_dK for image in images]
        for row, image in enumerate(images):
            image.answer.so_far = partial(self.so_far, row)

    def so_far(self, row: int) -> MemberOutputs | None:
        """The members' outputs for one image, of this batch and before; None if there are none."""
        outputs = [
            (member, logits_BK[row])
            for member, logits_BK in zip(self.members, self._outputs, strict=True)
            if logits_BK is not None
        ]
        probs_dK = [softmax(np.stack([logits_K for _, logits_K in outputs]))] if outputs else []
        if (earlier_dK := self._earlier[row]) is not None:
            probs_dK.insert(0, earlier_dK)
        if not probs_dK or self._error is not None:
            return None
        whole_dK = np.concatenate(probs_dK)
        if not np.isfinite(whole_dK).all():
            return None
        if self._is_last and len(outputs) == len(self.members):
            return MemberOutputs(whole_dK)  # no other member will be asked
        return MemberOutputs(
            whole_dK, (*range(self.members.start), *(member for member, _ in outputs))
        )

    def outcome(self) -> Outcome:
        """Images get an answer or a failure, or go on to the next member."""
        try:
            probs_dBK = self._probabilities()
            finite_B = np.asarray(np.isfinite(probs_dBK).all(axis=(0, 2)))
            leaves_B = np.ones(len(self._images), dtype=bool)
            if self._leaves is not None:
                leaves_B[finite_B] = self._leaves(probs_dBK[:, finite_B])
            answered_B = finite_B & leaves_B
            summaries = iter(self._summarize(probs_dBK[:, answered_B]) if answered_B.any() else ())
        except Exception as error:  # raised by a member, or by outputs that do not fit together
            return self._failed_by(error, "a member")
        outcome = Outcome([], [])
        for row, image in enumerate(self._images):
            if not finite_B[row]:
                failure = InferenceFailed("a member gave no number for this image")
                outcome.answers.append((image, failure))
            elif leaves_B[row]:
                image.answer.summary = next(summaries)
                outcome.answers.append((image, probs_dBK[:, row]))
            else:
                image.probs_dK = probs_dBK[:, row]
                outcome.going_on.append(image)
        return outcome

    def _probabilities(self) -> Floats:
        """probs_dBK of all members asked so far, in this batch and before."""
        if self._error is not None:
            raise self._error
        probs_MBK = softmax(np.stack([logits for logits in self._outputs if logits is not None]))
        earlier = [probs_dK for probs_dK in self._earlier if probs_dK is not None]
        return np.concatenate([np.stack(earlier, axis=1), probs_MBK]) if earlier else probs_MBK

    def _fits(self, outputs_B: NDArray[np.float32]) -> bool:
        return outputs_B.ndim == 2 and super()._fits(outputs_B)
