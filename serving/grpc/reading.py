"""The message of a call, read in the time and the memory that there are for it."""

import asyncio
from typing import Any

import grpc

from snapensemble.serving.errors import BodyTimeout, MalformedBody, Overloaded
from snapensemble.serving.settings import Settings

SOON_S = 1.0  # in which a message usually comes
Context = Any  # grpc.aio.ServicerContext; the package ships no types


class MessageReader:
    """Reads the message of each call, in the time and the memory that there are for it.

    gRPC gives a message when it is whole, and says before neither how much is to come nor how much
    has. So one that does not come soon counts as the largest, and half as much memory as requests
    may hold has room for some of them, beside what is counted when they have come.

    Args:
        settings: the limits.
    """

    def __init__(self, settings: Settings) -> None:
        self._timeout_s = settings.body_timeout_s
        self._most = max(1, settings.max_bytes_in_flight // 2 // settings.max_body_bytes)
        self._late = 0  # messages that have not come soon and are waited for

    async def read(self, context: Context) -> bytes:
        """The message of a call.

        Raises:
            MalformedBody: the client has sent none and will not.
            BodyTimeout: it has not come in time.
            Overloaded: it does not come soon, and too many do not.
        """
        reading = asyncio.ensure_future(context.read())
        try:
            soon_s = min(SOON_S, self._timeout_s)
            if not await _is_done(reading, soon_s):
                await self._wait_longer(reading, self._timeout_s - soon_s)
            message = reading.result()
        finally:
            reading.cancel()
        if message is grpc.aio.EOF:
            raise MalformedBody("the call has no message; expected one")
        assert isinstance(message, bytes)
        return message

    async def _wait_longer(self, reading: "asyncio.Future[Any]", seconds: float) -> None:
        if self._late >= self._most:
            raise Overloaded(
                f"{self._late} messages have been on their way for longer than {SOON_S:g} s, at "
                f"most {self._most} may be; send smaller ones, or try again later",
                1.0,
            )
        self._late += 1
        try:
            if not await _is_done(reading, seconds):
                raise BodyTimeout(f"the message did not arrive within {self._timeout_s:g} s")
        finally:
            self._late -= 1


async def _is_done(future: "asyncio.Future[Any]", within_s: float) -> bool:
    done, _ = await asyncio.wait({future}, timeout=within_s)
    return bool(done)
