"""A request's body -> encoded pictures, within limits that hold while it arrives."""

import asyncio
import base64
import contextlib
import math
from collections.abc import AsyncGenerator

from pydantic_core import from_json
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request

from serving.errors import (
    BodyTimeout,
    BodyTooLarge,
    DeadlineExceeded,
    EmptyBody,
    MalformedBody,
    Overloaded,
    TooManyImages,
    UnsupportedMediaType,
)
from serving.form import WholeForm, refuse_odd_charset
from serving.settings import Settings

OCTETS = "application/octet-stream"
DRAIN_BYTES = 64 * 2**20
DRAIN_S = 2.0
FORMS = (
    "one picture as the body (Content-Type: image/png, image/jpeg, … or application/octet-stream), "
    'files as multipart/form-data, or JSON {"images": [base64, …]}'
)


class Intake:
    """Reads bodies, and knows how many bytes all requests hold together."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.bytes_in_flight = 0

    async def read(self, request: Request, deadline: float = math.inf) -> list[bytes]:
        """The encoded pictures of a request, at least one, none of them decoded yet.

        The bytes count as in flight until `release` is called with `request`.

        Args:
            request: whose body has not been read.
            deadline: when its sender needs the answer, by the event loop's clock.

        Raises:
            BodyTooLarge, EmptyBody, BodyTimeout, MalformedBody, UnsupportedMediaType,
            TooManyImages: what the request got wrong.
            Overloaded: all requests together hold too much.
            DeadlineExceeded: the body has not arrived by then.
            ClientDisconnect: the sender left.
        """
        media_type = essence(request.headers.get("content-type", ""))
        latest = asyncio.get_running_loop().time() + self._settings.body_timeout_s
        try:
            self._refuse_announced(request)
            async with asyncio.timeout_at(min(latest, deadline)):
                return await self._pictures(request, media_type)
        except TimeoutError:
            if deadline < latest:
                raise DeadlineExceeded("the deadline passed while the body arrived") from None
            raise BodyTimeout(
                f"the body did not arrive within {self._settings.body_timeout_s:g} s"
            ) from None
        except (BodyTooLarge, TooManyImages, UnsupportedMediaType):
            await self._drain(request)
            raise

    def release(self, request: Request) -> None:
        """The request is answered: its bytes no longer count."""
        self.let_go(getattr(request.state, "bytes_held", 0))
        request.state.bytes_held = 0

    def hold(self, size: int) -> int:
        """Count so many bytes as in flight, and give their number.

        Raises:
            Overloaded: all requests together would hold too much.
        """
        if self.bytes_in_flight + size > self._settings.max_bytes_in_flight:
            raise Overloaded("too many bytes are in flight; try again later", 1.0)
        self.bytes_in_flight += size
        return size

    def let_go(self, size: int) -> None:
        """So many bytes no longer count."""
        self.bytes_in_flight -= size

    async def _pictures(self, request: Request, media_type: str) -> list[bytes]:
        if media_type == "multipart/form-data":
            return await self._multipart(request)
        if media_type == "application/json":
            return decode_json(
                await self._whole(request), limit=self._settings.max_images_per_request
            )
        if is_picture(media_type):
            return [await self._whole(request)]
        raise UnsupportedMediaType(f"Content-Type {media_type!r}; send {FORMS}")

    async def _whole(self, request: Request) -> bytes:
        body, more = await self._chunk(request)
        if more:
            # A list of many small chunks would take far more memory than is counted.
            whole = bytearray(body)
            while more:
                body, more = await self._chunk(request)
                whole += body
            body = bytes(whole)
        if not body:
            raise EmptyBody(f"the body is empty; send {FORMS}")
        return body

    async def _multipart(self, request: Request) -> list[bytes]:
        limit = self._settings.max_images_per_request
        refuse_odd_charset(request.headers.get("content-type", ""))
        parser = WholeForm(request.headers, self._limited(request), max_parts=limit)
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

    async def _drain(self, request: Request) -> None:
        """Read on for a moment and keep nothing.

        Most clients listen only when they have sent all. If the connection were closed under
        them, they would see a broken pipe and not the answer.
        """
        if getattr(request.state, "body_is_complete", False):
            return
        if request.headers.get("expect", "").lower() == "100-continue":
            return  # it listens first
        drained = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while drained < DRAIN_BYTES:
                    message = await request.receive()
                    drained += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return

    async def _limited(self, request: Request) -> AsyncGenerator[bytes, None]:
        """The body's chunks; ends with an error at the first byte over a limit."""
        more = True
        while more:
            chunk, more = await self._chunk(request)
            yield chunk

    async def _chunk(self, request: Request) -> tuple[bytes, bool]:
        """The next piece of the body, and whether more will come."""
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        held = getattr(request.state, "bytes_held", 0)
        if held + len(chunk) > self._settings.max_body_bytes:
            raise BodyTooLarge(
                self._too_large(f"more than {self._settings.max_body_bytes:,} bytes")
            )
        request.state.bytes_held = held + self.hold(len(chunk))
        more: bool = message.get("more_body", False)
        request.state.body_is_complete = not more
        return chunk, more

    def _refuse_announced(self, request: Request) -> None:
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._settings.max_body_bytes:
            raise BodyTooLarge(self._too_large(f"{int(announced):,} bytes"))

    def _too_large(self, found: str) -> str:
        limit = self._settings.max_body_bytes
        return f"the body has {found}, at most {limit:,} bytes are accepted; send less per request"


def essence(content_type: str) -> str:
    """The media type of a Content-Type, without parameters and in lower case."""
    return content_type.partition(";")[0].strip().lower()


def is_picture(media_type: str) -> bool:
    """Whether a body of this media type, or of none, is one picture."""
    return media_type in ("", OCTETS) or media_type.startswith("image/")


def too_many(found: str, limit: int) -> str:
    """The message of TooManyImages."""
    return f"the request has {found} images, at most {limit} are accepted; send several requests"


def decode_json(body: bytes, *, limit: int) -> list[bytes]:
    """The pictures of `{"images": [base64, …]}`.

    Checked by hand and not by a model: a megabyte of wrong entries would make as many errors.

    Raises:
        MalformedBody: not such a document, or an entry is not base64.
        TooManyImages: more than `limit`.
    """
    try:
        document = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedBody(f"the body is not JSON: {error}") from error
    texts = document.get("images") if isinstance(document, dict) else None
    if not isinstance(texts, list) or not texts or len(document) != 1:
        raise MalformedBody('expected {"images": [base64, …]} with at least one image')
    if len(texts) > limit:
        raise TooManyImages(too_many(f"{len(texts):,}", limit))
    pictures = []
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise MalformedBody(f"images.{index}: expected a string, found {type(text).__name__}")
        try:
            pictures.append(base64.b64decode(text, validate=True))
        except ValueError as error:
            raise MalformedBody(f"images.{index}: not base64: {error}") from error
    return pictures
