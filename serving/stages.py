"""Stages: where an image waits for its next members, and which stage a free lane serves.

In full mode there is one stage, whose micro-batches ask all members side by side. A cascade has a
stage per member: who may leave after it is answered, the others go on to the next.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from snapensemble.serving.inference.batch import LeaveCall
from snapensemble.serving.inference.request import Waiting

Mode = Literal["full", "cascade"]


@dataclass(slots=True)
class Load:
    """The unanswered images of a mode, and what one has cost lately."""

    unanswered: int = 0
    image_s: float = 0.0  # that an image takes of all lanes together; 0 before anything is measured
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
    """Images that wait for the same members."""

    members: range  # that a micro-batch asks side by side
    load: Load
    leaves: LeaveCall | None = None  # whom to answer after these members; None: everyone
    following: "Stage | None" = None  # where the others go
    waiting: deque[Waiting] = field(default_factory=deque)

    def decoded(self, waiting: Waiting, *, is_over: bool) -> None:
        """Let an image wait for its first member, unless it has failed or its caller has left.

        No lane is woken: the one that has decoded it is free as soon as it has the lock back.
        """
        if is_over:
            self.load.unanswered -= 1
        else:
            self.waiting.append(waiting)

    def take(self, count: int) -> list[Waiting]:
        """So many images out of the queue, without those whose callers have left."""
        taken = [self.waiting.popleft() for _ in range(count)]
        present = [waiting for waiting in taken if not waiting.has_left()]
        self.load.unanswered -= len(taken) - len(present)
        return present


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


def stages_of(members: int, leaves: LeaveCall | None) -> tuple[list[Stage], dict[Mode, Stage]]:
    """All stages, and the one in which images of each mode wait for their first member."""
    full = full_stage(members)
    if leaves is None:
        return [full], {"full": full}
    cascade = cascade_stages(members, leaves)
    return [full, *cascade], {"full": full, "cascade": cascade[0]}


def next_stage(stages: Iterable[Stage]) -> Stage | None:
    """The stage whose first image was accepted earliest; None if nobody waits."""
    busy = [stage for stage in stages if stage.waiting]
    return min(busy, key=lambda stage: stage.waiting[0].times.accepted, default=None)
