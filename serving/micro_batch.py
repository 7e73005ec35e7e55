"""A micro-batch: images that run together through every member, and their answers.

Shapes: M members, B images, C channels, H height, W width, K classes.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from contracts.figures import Floats, softmax
from serving.errors import InferenceFailed

Image = NDArray[np.uint8]
MemberCall = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What one finished micro-batch took, seconds."""

    waits_s: tuple[float, ...]  # per image, from submission to the start
    inference_s: float  # from the start to the last member's answer
    members_s: tuple[float, ...]  # per member; 0 for those skipped after a failure
    failed: bool


@dataclass(slots=True)
class Waiting:
    """An accepted image and the future that its caller holds."""

    image_CHW: Image
    answer: "Future[Floats]"
    since: float = field(default_factory=time.monotonic)


class MicroBatch:
    """Images that run together; it finishes when every member has answered."""

    def __init__(self, images: Sequence[Waiting], members: int) -> None:
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
