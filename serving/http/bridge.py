"""The bridge from the event loop to the lanes: pictures go over and answers come back, in groups.

To wake a thread costs as much as a small member. So the lanes are woken once for all pictures that
came in one turn of the loop, and the loop once for all answers that are there together.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from snapensemble.contracts.cascade import Mode
from snapensemble.serving.inference.request import PendingImage
from snapensemble.serving.inference.scheduler import Scheduler

log = logging.getLogger("snapensemble")
Callback = Callable[[Any], None]  # called with the answer


class Bridge:
    """The bridge of one event loop, on whose thread all but `_post` is called.

    Args:
        scheduler: whose lanes answer.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._handed_in = 0
        self._answered: deque[tuple[Callback, Any]] = deque()
        self._is_woken = False

    def submit(self, images: Sequence[PendingImage], mode: Mode, callback: Callback) -> None:
        """Hand the images of one request to the scheduler; see `Scheduler.submit`.

        Args:
            images: those of the request, which have been accepted.
            mode: which members to ask.
            callback: called on the event loop with each future that is done or cancelled.
        """
        self._scheduler.submit(images, mode, wake=False)
        loop = asyncio.get_running_loop()
        if not self._handed_in:
            loop.call_soon(self._wake)
        self._handed_in += len(images)
        post = partial(self._post, loop, callback)
        for image in images:
            image.answer.add_done_callback(post)

    def _wake(self) -> None:
        count, self._handed_in = self._handed_in, 0
        self._scheduler.wake(count)

    def _post(self, loop: asyncio.AbstractEventLoop, callback: Callback, answer: Any) -> None:
        """Queue an answer for the loop; called on a lane, or on the loop if it is cancelled."""
        self._answered.append((callback, answer))
        if not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(RuntimeError):  # the loop was closed under a request
                loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_woken = False  # set first, so that later answers wake the loop again
        while self._answered:
            callback, answer = self._answered.popleft()
            try:
                callback(answer)
            except Exception:  # the others must be passed on all the same
                log.exception("an answer could not be passed on")
