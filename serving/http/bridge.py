"""The bridge from the event loop to the lanes: pictures go over and answers come back, in groups.

To wake a thread costs as much as a small member. So the lanes are woken once for all pictures that
came in one turn of the loop, and the loop once for all answers that are there together.
"""

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect

from snapensemble.contracts.cascade import Mode
from snapensemble.contracts.errors import InvalidImage
from snapensemble.serving.errors import BadImageInRequest
from snapensemble.serving.inference.admission import PendingRequest
from snapensemble.serving.inference.request import Answer, MemberOutputs, PendingImage
from snapensemble.serving.inference.scheduler import Scheduler

# Most answers are there before a client could have left; to listen for that costs more than a
# small ensemble.
LISTEN_AFTER_S = 0.05
log = logging.getLogger("snapensemble")
Callback = Callable[[Any], None]  # called with the answer
Left = Callable[[], Awaitable[None]]  # waits until a client has left


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


async def classified(
    bridge: Bridge,
    request: PendingRequest,
    images: Sequence[PendingImage],
    mode: Mode,
    left: Left | None,
    deadline: float,
) -> list[MemberOutputs]:
    """Let the scheduler answer all images of a request, and return the members' outputs for each.

    Args:
        bridge: leads to the scheduler.
        request: holds the images.
        images: all of the request, accepted.
        mode: which members to ask.
        left: waits until the sender has left; None where nobody can, or a transport cancels then.
        deadline: when to answer with what there is, by the event loop's clock; infinite: never.

    Raises:
        BadImageInRequest: a picture cannot be read; the others are not answered.
        InferenceFailed: a member failed.
        DeadlineExceeded: at the deadline no member has answered for an image.
        ClientDisconnect: the client has left.
    """
    is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    missing = len(images)

    def answered(answer: Answer) -> None:
        nonlocal missing
        missing -= 1
        if is_over.done():
            return
        if missing == 0:
            is_over.set_result(None)
        elif not answer.cancelled() and answer.exception() is not None:
            is_over.set_exception(_failure_of(images, answer))

    bridge.submit(images, mode, answered)
    await _over_or_left(is_over, left, deadline)
    if missing == 0:
        request.all_answered()
    return [_outputs_of(image, index, len(images)) for index, image in enumerate(images)]


def _outputs_of(image: PendingImage, index: int, count: int) -> MemberOutputs:
    """The members' outputs so far for the picture in this place of a request."""
    try:
        return image.answer.cut_short()
    except InvalidImage as error:
        raise BadImageInRequest(index, count, error) from error


def _failure_of(images: Sequence[PendingImage], failed: Answer) -> BaseException:
    """The error of a request in which one picture has failed."""
    error = failed.exception()
    assert error is not None
    if isinstance(error, InvalidImage):
        index = next(place for place, image in enumerate(images) if image.answer is failed)
        return BadImageInRequest(index, len(images), error)
    return error


async def _over_or_left(
    is_over: "asyncio.Future[None]", left: Left | None, deadline: float
) -> None:
    """Wait for the images, at most until the deadline; ClientDisconnect if the client leaves."""
    loop = asyncio.get_running_loop()
    listeners: list[asyncio.Task[None]] = []

    async def listen() -> None:
        assert left is not None
        await left()
        if not is_over.done():
            is_over.set_exception(ClientDisconnect())

    def begin_to_listen() -> None:
        listeners.append(loop.create_task(listen()))

    def end() -> None:
        if not is_over.done():
            is_over.set_result(None)

    timers = [] if left is None else [loop.call_later(LISTEN_AFTER_S, begin_to_listen)]
    if deadline < math.inf:
        timers.append(loop.call_at(deadline, end))
    try:
        await is_over
    finally:
        for timer in timers:
            timer.cancel()
        for listener in listeners:
            listener.cancel()
