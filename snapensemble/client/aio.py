"""AsyncClient: asks a server from a program that runs on asyncio."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, aclosing
from typing import Any, TypeVar, Unpack, overload

import httpx2

from snapensemble.client.talk import (
    Answers,
    Batch,
    Conversation,
    Failure,
    Reply,
    Request,
)
from snapensemble.client.wire import (
    NO_ANSWER,
    Incoming,
    OneServer,
    as_failure,
    as_late,
    body_of,
    read_predictions,
    shown,
)
from snapensemble.contracts.options import in_python_words
from snapensemble.pictures import BadPicture, Picture, as_several
from snapensemble.predictions import AskedOfServer, Prediction

T = TypeVar("T")


class AsyncClient(OneServer[httpx2.AsyncClient, httpx2.AsyncBaseTransport]):
    """Asks a server about pictures; `async with` or `aclose` ends it.

    Arguments, errors and what is repeated are those of `Client`. Files are read on threads.
    """

    _open = httpx2.AsyncClient

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def model(self) -> dict[str, Any]:
        """What is served and how good it is: `GET /model`; errors are those of `Client.model`."""
        return await self._hold(self._talk.model())

    @overload
    async def predict(  # type: ignore[overload-overlap] # a text is a sequence of texts, too
        self,
        pictures: Picture,
        *,
        progress: bool | Callable[[int, int], None] = False,
        **asked: Unpack[AskedOfServer],
    ) -> Prediction: ...

    @overload
    async def predict(
        self,
        pictures: Iterable[Picture],
        *,
        progress: bool | Callable[[int, int], None] = False,
        **asked: Unpack[AskedOfServer],
    ) -> list[Prediction]: ...

    async def predict(
        self,
        pictures: "Picture | Iterable[Picture]",
        *,
        progress: bool | Callable[[int, int], None] = False,
        **asked: Unpack[AskedOfServer],
    ) -> Prediction | list[Prediction]:
        """Ask about one picture, or about several; see `Client.predict`."""
        several, is_one = as_several(pictures)
        with in_python_words():
            answers = await self.ask(several, progress=progress, **asked)
            found = read_predictions(answers, self._talk.url)
        return found[0] if is_one else found

    async def ask(
        self,
        pictures: Iterable[Picture],
        names: Sequence[str] | None = None,
        *,
        progress: bool | Callable[[int, int], None] = False,
        **asked: Unpack[AskedOfServer],
    ) -> Answers:
        """Ask about pictures; the predictions are as JSON has them. See `Client.ask`."""
        predictions: list[dict[str, Any]] = []
        model: dict[str, Any] = {}
        with ExitStack() as stack:
            pictures, done = shown(pictures, progress, stack)
            batches = self._talk.batches(pictures, names)
            async with aclosing(self._in_order(batches, asked)) as ends:
                async for found in ends:
                    predictions += found.predictions
                    model = found.model
                    done(len(predictions))
        return Answers(predictions, model)

    async def _in_order(
        self, batches: Iterator[Batch | BadPicture], asked: AskedOfServer
    ) -> AsyncGenerator[Answers, None]:
        """Hold the conversations about batches, several at a time; yield their ends in order."""
        under_way: deque[asyncio.Task[Answers]] = deque()
        try:
            while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                under_way.append(asyncio.create_task(self._about(batch, asked)))
                if len(under_way) >= self._talk.options.concurrency:
                    yield await under_way.popleft()
            while under_way:
                yield await under_way.popleft()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _about(self, batch: Batch | BadPicture, asked: AskedOfServer) -> Answers:
        if isinstance(batch, BadPicture):
            raise batch
        return await self._hold(self._talk.predictions(batch, asked))

    async def _hold(self, conversation: Conversation[T]) -> T:
        """Hold a conversation to its end."""
        outcome: Reply | Failure | None = None
        while True:
            try:
                said = conversation.send(outcome)
            except StopIteration as end:
                found: T = end.value
                return found
            outcome = None
            if isinstance(said, Request):
                outcome = await self._send(said)
            else:
                await asyncio.sleep(said)

    async def _send(self, request: Request) -> Reply | Failure:
        incoming = Incoming(self._talk.url, request)
        stream = self._http.stream(request.method, request.path, **body_of(request))
        try:
            async with asyncio.timeout(request.timeout_s), stream as response:
                async for chunk in response.aiter_bytes():
                    incoming.take(chunk)
                return incoming.reply(response)
        except TimeoutError:
            return as_late(request)
        except NO_ANSWER as error:
            return as_failure(error)
