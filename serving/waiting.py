"""An accepted image, and the future that its caller holds.

Shapes: d members asked, C channels, H height, W width, K classes.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from contracts.figures import Floats
from serving.errors import DeadlineExceeded, InferenceFailed

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Said:
    """What members have said of an image."""

    probs_dK: Floats
    partial_of: tuple[int, ...] | None = None  # the members, where not all were heard


def nothing_yet() -> Said | None:
    """What is there before the first member has answered."""
    return None


class Answer(Future[Floats]):
    """probs_dK of an image when all members asked have answered; before, on request, a part."""

    def __init__(self) -> None:
        super().__init__()
        self.so_far: Callable[[], Said | None] = nothing_yet  # set by who asks members
        self.accepted = time.monotonic()
        self.begun: float | None = None  # with its first member
        self.ended: float | None = None

    def cut_short(self) -> Said:
        """All of it if it is there, or else what members have said so far; ends the waiting.

        Raises:
            DeadlineExceeded: none has said anything.
        """
        said = self.so_far()  # before the rest is cancelled: afterwards it may be forgotten
        if not self.cancel():
            return Said(self.result())
        if said is None:
            raise DeadlineExceeded("no member had answered when the deadline passed")
        return said


@dataclass(slots=True)
class Waiting:
    """An accepted image, the future that its caller holds, and what members have said of it."""

    image_CHW: Image
    answer: Answer
    since: float = field(default_factory=time.monotonic)
    probs_dK: Floats | None = None

    def has_left(self) -> bool:
        """Whether the caller has cancelled; then those who wait for the future are told."""
        if not self.answer.cancelled():
            return False
        self.answer.set_running_or_notify_cancel()
        self.answer.so_far = nothing_yet
        return True

    def resolve(self, outcome: Floats | InferenceFailed) -> None:
        """Answer, unless the caller has left."""
        self.answer.ended = time.monotonic()
        if self.answer.set_running_or_notify_cancel():
            if isinstance(outcome, InferenceFailed):
                self.answer.set_exception(outcome)
            else:
                self.answer.set_result(outcome)
        self.answer.so_far = nothing_yet  # it holds the whole micro-batch
