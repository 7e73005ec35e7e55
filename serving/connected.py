"""Ends the work on a request whose client has left."""

import asyncio
from types import TracebackType

from starlette.requests import ClientDisconnect, Request


class Connected:
    """An async context manager: what runs in it is cancelled when the client leaves.

    Enter it when the body is read. Starlette does not tell a handler that its client left;
    `receive` does, once there is no more body.

    Raises:
        ClientDisconnect: on leaving, if that is why.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._has_left = False

    async def __aenter__(self) -> None:
        """Listen for the end of the connection from now on."""
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._listener = asyncio.ensure_future(self._listen())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening; a cancellation of ours becomes ClientDisconnect."""
        self._listener.cancel()
        if self._has_left and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise ClientDisconnect from error

    async def _listen(self) -> None:
        await self._request.receive()
        self._has_left = True
        self._task.cancel()
