"""A request's body -> encoded pictures, within limits that hold while it arrives."""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Awaitable, Callable

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from snapensemble.serving.errors import (
    BodyTimeout,
    BodyTooLarge,
    DeadlineExceeded,
    EmptyBody,
    MalformedBody,
    TooManyImages,
    UnsupportedMediaType,
)
from snapensemble.serving.http.form import WholeForm, refuse_odd_charset
from snapensemble.serving.http.json_images import GROWTH, pictures_of_json, too_many
from snapensemble.serving.http.scope import is_whole
from snapensemble.serving.inference.admission import Holding
from snapensemble.serving.settings import Settings

OCTETS = "application/octet-stream"
FORM = "multipart/form-data"
JSON = "application/json"
HEADERS = (b"content-type", b"content-length", b"content-encoding", b"expect")
LARGE = 2**18  # bytes of JSON that are not parsed between two answers
DRAIN_BYTES = 64 * 2**20
DRAIN_S = 2.0
FORMS = (
    "one picture as the body (Content-Type: image/png, image/jpeg, … or application/octet-stream), "
    'files as multipart/form-data, or JSON {"images": [base64, …]}'
)


class Body:
    """The body of one request, which has not been read.

    Args:
        scope: of the request.
        receive: gives the pieces.
        held: counts them.
        settings: limits.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        held: Holding,
        settings: Settings,
    ) -> None:
        self._headers: dict[bytes, str] = {}
        for name, value in scope["headers"]:
            if name in HEADERS and name not in self._headers:
                self._headers[name] = value.decode("latin-1")
        self._is_whole = is_whole(scope)
        self._receive = receive
        self._held = held
        self._settings = settings
        self._is_complete = False
        self._size = 0

    async def pictures(self, deadline: float = math.inf) -> list[bytes]:
        """The encoded pictures, at least one, none of them decoded yet.

        Args:
            deadline: when their sender needs the answer, by the event loop's clock.

        Raises:
            BodyTooLarge, EmptyBody, BodyTimeout, MalformedBody, UnsupportedMediaType,
            TooManyImages: what the request got wrong.
            Overloaded: all requests together hold too much.
            DeadlineExceeded: the body has not arrived by then.
            ClientDisconnect: the sender left.
        """
        media_type = essence(self._headers.get(b"content-type", ""))
        read = self._form if media_type == FORM else self._whole
        try:
            self._refuse_announced(media_type)
            # What has come whole takes no time; a timer would.
            arrived = await (read() if self._is_whole else self._in_time(read, deadline))
        except (BodyTooLarge, TooManyImages, UnsupportedMediaType):
            await self._drain()
            raise
        if isinstance(arrived, list):
            return arrived
        return await self._parsed(arrived) if media_type == JSON else [arrived]

    async def _in_time(
        self, read: Callable[[], Awaitable[bytes | list[bytes]]], deadline: float
    ) -> bytes | list[bytes]:
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
        body, more = await self._chunk()
        if more:
            # A list of many small chunks would take far more memory than is counted.
            whole = bytearray(body)
            while more:
                body, more = await self._chunk()
                whole += body
            self._held.hold(len(whole))  # there are two of it for a moment
            body = bytes(whole)
            self._held.let_go(len(whole))
        if not body:
            raise EmptyBody(f"the body is empty; send {FORMS}")
        return body

    async def _parsed(self, body: bytes) -> list[bytes]:
        self._held.hold(GROWTH * len(body))
        limit = self._settings.max_images_per_request
        if len(body) < LARGE:
            return pictures_of_json(body, limit=limit)
        return await asyncio.to_thread(pictures_of_json, body, limit=limit)

    async def _form(self) -> list[bytes]:
        limit = self._settings.max_images_per_request
        content_type = self._headers[b"content-type"]
        refuse_odd_charset(content_type)
        parser = WholeForm(
            Headers({"content-type": content_type}), self._doubled(), max_parts=limit
        )
        # Never to a temporary file: the container's file system is read-only.
        parser.spool_max_size = self._settings.max_body_bytes + 1
        try:
            form = await parser.parse()
        except MultiPartException as error:
            if "Too many files" in error.message:
                raise TooManyImages(too_many(f"more than {limit}", limit)) from error
            raise MalformedBody(f"the multipart body cannot be read: {error.message}") from error
        except UnicodeError as error:
            raise MalformedBody(f"the multipart body cannot be read: {error}") from error
        try:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            if not files:
                raise EmptyBody('the form has no file; send one with curl -F "image=@cat.jpg"')
            return [await file.read() for file in files]
        finally:
            await form.close()

    async def _doubled(self) -> AsyncGenerator[bytes, None]:
        """The body's chunks, held twice: in the form, and as the pictures that are made of it."""
        more = True
        while more:
            chunk, more = await self._chunk()
            self._held.hold(len(chunk))
            yield chunk

    async def _drain(self) -> None:
        """Read on for a moment and keep nothing.

        Most clients listen only when they have sent all. If the connection were closed under
        them, they would see a broken pipe and not the answer.
        """
        if self._is_complete or self._headers.get(b"expect", "").lower() == "100-continue":
            return  # nothing will come, or it listens first
        drained = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while drained < DRAIN_BYTES:
                    message = await self._receive()
                    drained += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return

    async def _chunk(self) -> tuple[bytes, bool]:
        """The next piece of the body, and whether more will come."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        self._size += len(chunk)
        if self._size > self._settings.max_body_bytes:
            limit = f"more than {self._settings.max_body_bytes:,} bytes"
            raise BodyTooLarge(self._too_large(limit))
        self._held.hold(len(chunk))
        more: bool = message.get("more_body", False)
        self._is_complete = not more
        return chunk, more

    def _refuse_announced(self, media_type: str) -> None:
        """What the head alone shows to be wrong."""
        if media_type not in (FORM, JSON) and not is_picture(media_type):
            raise UnsupportedMediaType(f"Content-Type {media_type!r}; send {FORMS}")
        announced = self._headers.get(b"content-length", "")
        if announced.isdecimal() and int(announced) > self._settings.max_body_bytes:
            raise BodyTooLarge(self._too_large(f"{int(announced):,} bytes"))
        encoding = self._headers.get(b"content-encoding", "")
        if encoding.strip().lower() not in ("", "identity"):
            raise UnsupportedMediaType(
                f"Content-Encoding {encoding!r}; send the body as it is, without any"
            )

    def _too_large(self, found: str) -> str:
        limit = self._settings.max_body_bytes
        return f"the body has {found}, at most {limit:,} bytes are accepted; send less per request"


def essence(content_type: str) -> str:
    """The media type of a Content-Type, without parameters and in lower case."""
    return content_type.partition(";")[0].strip().lower()


def is_picture(media_type: str) -> bool:
    """Whether a body of this media type, or of none, is one picture."""
    return media_type in ("", OCTETS) or media_type.startswith("image/")
