"""An accepted picture, and the future that its caller holds.

Shapes: d members asked, C channels, H height, W width, K classes.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.errors import TakesTime
from snapensemble.contracts.metrics import Floats
from snapensemble.serving.errors import DeadlineExceeded
from snapensemble.serving.inference.aggregate import Summary
from snapensemble.serving.inference.memory import Encoded

Image = NDArray[np.uint8]  # image_CHW
Picture = Image | Encoded | bytes  # bytes: encoded, and nobody counts them


def no_decoder(_: bytes) -> Image:
    """Decodes nothing."""
    raise TypeError("these lanes take decoded images only")


@dataclass(frozen=True, slots=True)
class Said:
    """What members have said of an image."""

    probs_dK: Floats
    partial_of: tuple[int, ...] | None = None  # the members, where not all were heard
    summary: Summary | None = None


def nothing_yet() -> Said | None:
    """What is there before the first member has answered."""
    return None


@dataclass(slots=True)
class Times:
    """When what happened to a picture, by `time.monotonic`."""

    accepted: float = field(default_factory=time.monotonic)
    predicted_s: float = 0.0  # how long it was to wait
    decoding: float | None = None
    decoded: float | None = None
    begun: float | None = None  # with its first member
    ended: float | None = None

    @property
    def decode_s(self) -> float:
        """Seconds that decoding took; 0 if it has not been decoded."""
        if self.decoding is None or self.decoded is None:
            return 0.0
        return self.decoded - self.decoding


class Answer(Future[Floats]):
    """probs_dK of an image when all members asked have answered; before, on request, a part."""

    def __init__(self) -> None:
        super().__init__()
        self.so_far: Callable[[], Said | None] = nothing_yet  # set by who asks members
        self.summary: Summary | None = None  # likewise, before the result
        self.times = Times()

    def cut_short(self) -> Said:
        """All of it if it is there, or else what members have said so far; ends the waiting.

        Raises:
            DeadlineExceeded: none has said anything.
        """
        said = self.so_far()  # before the rest is cancelled: afterwards it may be forgotten
        if not self.cancel():
            return Said(self.result(), summary=self.summary)
        if said is None:
            raise DeadlineExceeded("no member had answered when the deadline passed")
        return said


@dataclass(slots=True)
class Waiting:
    """An accepted picture, the future that its caller holds, and what members have said of it."""

    picture: Image | Encoded
    answer: Answer
    probs_dK: Floats | None = None

    @property
    def image_CHW(self) -> Image:  # noqa: N802 # a shape
        """The picture, which has been decoded."""
        assert not isinstance(self.picture, Encoded)
        return self.picture

    @property
    def times(self) -> Times:
        """When what happened to it."""
        return self.answer.times

    def attempt(self, decode: Callable[[bytes], Image]) -> Exception | None:
        """Make an image of an encoded picture, unless its client has left, or say why not.

        Defects are told, too, since the client must be answered. A picture that takes more time
        than `decode` gives it stays encoded.
        """
        encoded, times = self.picture, self.times
        assert isinstance(encoded, Encoded)
        data = encoded.take()
        if data is None:
            return None
        if self.answer.cancelled():
            encoded.done()
            return None
        times.decoding = time.monotonic()
        try:
            self.picture = decode(data)
        except TakesTime as error:
            encoded.put_back(data)
            return error
        except Exception as error:
            encoded.done()
            return error
        finally:
            times.decoded = time.monotonic()
        encoded.done()
        return None

    def has_left(self) -> bool:
        """Whether the caller has cancelled; then those who wait for the future are told."""
        if not self.answer.cancelled():
            return False
        self.answer.set_running_or_notify_cancel()
        self.answer.so_far = nothing_yet
        return True

    def resolve(self, outcome: Floats | Exception) -> None:
        """Answer, unless the caller has left."""
        if isinstance(self.picture, Encoded):  # nobody will decode it
            self.picture.drop()
        self.times.ended = time.monotonic()
        if self.answer.set_running_or_notify_cancel():
            if isinstance(outcome, Exception):
                self.answer.set_exception(outcome)
            else:
                self.answer.set_result(outcome)
        self.answer.so_far = nothing_yet  # it holds the whole micro-batch
