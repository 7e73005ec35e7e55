"""A request's body -> encoded pictures, within limits that hold while it arrives."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from snapensemble.serving.errors import (
    BodyTimeout,
    BodyTooLarge,
    DeadlineExceeded,
    EmptyBody,
    UnsupportedMediaType,
)
from snapensemble.serving.http.exchange import STATE
from snapensemble.serving.http.media.encodings import Decoder, coding_of
from snapensemble.serving.http.media.form import Form
from snapensemble.serving.http.media.json_images import GROWTH, pictures_of_json
from snapensemble.serving.http.media.texts import PICTURE_TYPE
from snapensemble.serving.inference.admission import PendingRequest
from snapensemble.serving.settings import Settings

FORM = "multipart/form-data"
JSON = "application/json"
ENCODING = b"content-encoding"
HEADERS = (b"content-type", b"content-length", ENCODING)
LARGE = 2**18  # bytes that are parsed on a thread, beside the event loop
FORMS = (
    "one picture as the body (Content-Type: image/png, image/jpeg, … or application/octet-stream), "
    'files as multipart/form-data, or JSON {"images": [base64, …]}'
)
Read = TypeVar("Read", bytes, list[bytes])
Parsed = TypeVar("Parsed")


class Body:
    """The body of one request, which has not been read when this is made.

    Args:
        scope: the ASGI scope of the request.
        receive: gives the pieces of the body.
        held: what the request holds; the bytes of the pieces are counted there.
        settings: the limits.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        held: PendingRequest,
        settings: Settings,
    ) -> None:
        self._headers: dict[bytes, str] = {}
        for name, value in scope["headers"]:
            if name not in HEADERS:
                continue
            if name not in self._headers:
                self._headers[name] = value.decode("latin-1")
            elif name == ENCODING:  # several lines of it are one list
                self._headers[name] += f", {value.decode('latin-1')}"
        self._is_whole = scope["state"][STATE].is_whole
        self._receive = receive
        self._held = held
        self._settings = settings
        self._is_complete = False
        self._size = 0
        self._next = self._chunk
        self._decoder: Decoder | None = None
        self._packed = self._window = 0  # bytes that are held for the decoder

    async def pictures(self, deadline: float = math.inf) -> list[bytes]:
        """Read the body, and return its encoded pictures, at least one.

        Args:
            deadline: when their sender needs the answer, by the event loop's clock.

        Raises:
            UnsupportedMediaType: a body of this media type carries no pictures.
            MalformedBody, TooManyImages: it is not what its media type says, or has too many.
            ServingError, ClientDisconnect: as `content`.
        """
        media_type = essence(self._headers.get(b"content-type", ""))
        if media_type not in (FORM, JSON) and not PICTURE_TYPE.fullmatch(media_type):
            raise UnsupportedMediaType(f"Content-Type {media_type!r}; send {FORMS}")
        if media_type == FORM:
            return await self._read(self._form, deadline)
        body = await self._read(self._whole, deadline)
        if not body:
            raise EmptyBody(f"the body is empty; send {FORMS}")
        if media_type != JSON:
            return [body]
        limit = self._settings.max_images_per_request
        return await self.parsed(body, partial(pictures_of_json, limit=limit))

    async def content(self, deadline: float = math.inf) -> bytes:
        """Read the body, and return it whole, unpacked, and whatever its media type is.

        Args:
            deadline: when its sender needs the answer, by the event loop's clock.

        Raises:
            BodyTooLarge, EmptyBody, BodyTimeout: what the request got wrong.
            UnsupportedEncoding, MalformedBody: it is packed in an unknown way, or damaged.
            Overloaded: all requests together hold too much.
            DeadlineExceeded: the body has not arrived by then.
            ClientDisconnect: the sender left.
        """
        body = await self._read(self._whole, deadline)
        if not body:
            raise EmptyBody("the body is empty")
        return body

    def hold(self, size: int) -> None:
        """Hold bytes beside the body until its images are accepted; raises Overloaded."""
        self._held.hold(size)

    async def _read(self, read: Callable[[], Awaitable[Read]], deadline: float) -> Read:
        self._look_at_the_head()
        # A body that has come whole takes no time, and a timer would cost some.
        if self._is_whole and self._decoder is None:
            return await read()
        return await self._in_time(read, deadline)

    async def _in_time(self, read: Callable[[], Awaitable[Read]], deadline: float) -> Read:
        latest = asyncio.get_running_loop().time() + self._settings.body_timeout_s
        try:
            async with asyncio.timeout_at(min(latest, deadline)):
                return await read()
        except TimeoutError:
            if deadline < latest:
                raise DeadlineExceeded("the deadline passed while the body arrived") from None
            raise BodyTimeout(
                f"the body did not arrive within {self._settings.body_timeout_s:g} s"
            ) from None

    async def _whole(self) -> bytes:
        body, more = await self._next()
        if more:
            # A list of many small chunks would take far more memory than is counted.
            whole = bytearray(body)
            while more:
                body, more = await self._next()
                whole += body
            self._held.hold(len(whole))  # there are two copies for a moment
            body = bytes(whole)
            self._held.let_go(len(whole))
        return body

    async def parsed(
        self, body: bytes, parse: Callable[[bytes], Parsed], growth: int = GROWTH
    ) -> Parsed:
        """Parse a whole body as JSON; a large one on a thread, beside the event loop.

        Args:
            body: what `content` gave.
            parse: makes something of it.
            growth: how many times its size is held beside it meanwhile.

        Raises:
            ServingError: as `parse`.
            Overloaded: all requests together hold too much.
        """
        self._held.hold(growth * len(body))
        return await beside(len(body), partial(parse, body))

    async def _form(self) -> list[bytes]:
        form = Form(self._headers[b"content-type"], limit=self._settings.max_images_per_request)
        more = True
        while more:
            chunk, more = await self._next()
            self._held.hold(len(chunk))  # the second copy: the pictures that are made of it
            form.feed(chunk)
        return form.pictures()

    async def _chunk(self) -> tuple[bytes, bool]:
        """Receive the next piece of the body, and whether more will come."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        more: bool = message.get("more_body", False)
        self._is_complete = not more
        self._size += len(chunk)
        if self._size > self._settings.max_body_bytes:
            limit = f"more than {self._settings.max_body_bytes:,} bytes"
            raise BodyTooLarge(self._too_large(limit))
        self._held.hold(len(chunk))
        return chunk, more

    async def _unpacked(self) -> tuple[bytes, bool]:
        """Unpack the next piece of the body, and tell whether more may come.

        The decoder may keep as much of what it has unpacked as its window has room for.
        """
        decoder = self._decoder
        assert decoder is not None
        while (piece := decoder.step()) is None:
            self._held.let_go(self._packed)
            self._packed = 0
            if self._is_complete:
                decoder.finish()
                self._held.let_go(self._window)
                return b"", False
            chunk, _ = await self._chunk()
            self._packed = len(chunk)
            decoder.give(chunk)
        if decoder.unpacked > self._settings.max_body_bytes:
            limit = f"unpacked more than {self._settings.max_body_bytes:,} bytes"
            raise BodyTooLarge(self._too_large(limit))
        grown = min(decoder.window, decoder.unpacked) - self._window
        self._held.hold(len(piece) + grown)
        self._window += grown
        await asyncio.sleep(0)  # others have their turn between two steps
        return piece, True

    def _look_at_the_head(self) -> None:
        """Refuse what the head alone shows to be wrong, and prepare to unpack."""
        announced = self._headers.get(b"content-length", "")
        if announced.isdecimal() and int(announced) > self._settings.max_body_bytes:
            raise BodyTooLarge(self._too_large(f"{int(announced):,} bytes"))
        encoding = self._headers.get(ENCODING)
        if encoding is not None and (coding := coding_of(encoding)) is not None:
            self._decoder = Decoder(coding)
            self._next = self._unpacked

    def _too_large(self, found: str) -> str:
        limit = self._settings.max_body_bytes
        return f"the body has {found}, at most {limit:,} bytes are accepted; send less per request"


async def beside(size: int, parse: Callable[[], Parsed]) -> Parsed:
    """Parse so many bytes, or what came of them; many on a thread, beside the event loop."""
    return parse() if size < LARGE else await asyncio.to_thread(parse)


def essence(content_type: str) -> str:
    """The media type of a Content-Type, without parameters and in lower case."""
    return content_type.partition(";")[0].strip().lower()
