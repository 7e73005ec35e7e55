"""A request's body -> encoded pictures, within limits that hold while it arrives."""

import asyncio
import base64
import binascii
import contextlib
import math
from collections.abc import Awaitable, Callable

from pydantic_core import from_json
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
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
from snapensemble.serving.http.exchange import STATE
from snapensemble.serving.inference.admission import PendingRequest
from snapensemble.serving.settings import Settings

OCTETS = "application/octet-stream"
FORM = "multipart/form-data"
JSON = "application/json"
HEADERS = (b"content-type", b"content-length", b"content-encoding", b"expect")
LARGE = 2**18  # bytes of JSON from which it is parsed on a thread, beside the event loop
DRAIN_BYTES = 64 * 2**20
DRAIN_S = 2.0
FORMS = (
    "one picture as the body (Content-Type: image/png, image/jpeg, … or application/octet-stream), "
    'files as multipart/form-data, or JSON {"images": [base64, …]}'
)
CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1", b"latin-1", b"latin1")
# Bytes that are held beside the body while it is parsed: its strings, and the pictures in them.
GROWTH = 2
MAX_VALUES = 10_000
SLICE = 2**20  # characters decoded in one step, in which no other thread runs; a multiple of 4
EXPECTED = 'expected {"images": [base64, …]} with at least one image'


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
            if name in HEADERS and name not in self._headers:
                self._headers[name] = value.decode("latin-1")
        self._is_whole = scope["state"][STATE].is_whole
        self._receive = receive
        self._held = held
        self._settings = settings
        self._is_complete = False
        self._size = 0

    async def pictures(self, deadline: float = math.inf) -> list[bytes]:
        """Read the body, and return its encoded pictures, at least one.

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
            # A body that has come whole takes no time, and a timer would cost some.
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
            self._held.hold(len(whole))  # there are two copies for a moment
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
        form = Form(self._headers[b"content-type"], limit=self._settings.max_images_per_request)
        more = True
        while more:
            chunk, more = await self._chunk()
            self._held.hold(len(chunk))  # the second copy: the pictures that are made of it
            form.feed(chunk)
        return form.pictures()

    async def _drain(self) -> None:
        """Read the rest of the body for a moment, and keep nothing of it.

        Most clients listen only when they have sent all. If the connection were closed under
        them, they would see a broken pipe and not the answer.
        """
        if self._is_complete or self._headers.get(b"expect", "").lower() == "100-continue":
            return  # nothing will come, or the client listens first
        drained = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while drained < DRAIN_BYTES:
                    message = await self._receive()
                    drained += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return

    async def _chunk(self) -> tuple[bytes, bool]:
        """Receive the next piece of the body, and whether more will come."""
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
        """Refuse what the head alone shows to be wrong."""
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


class Form:
    """A multipart form, parsed as it arrives: its files are pictures, its fields are ignored.

    Starlette's parser would make a file object for each of them, which costs more than the rest
    of a request.

    Args:
        content_type: with the boundary.
        limit: how many files, and how many fields, there may be.

    Raises:
        MalformedBody: there is no boundary, or names are in a charset that is not plain. Python
            decodes some charsets in quadratic time, minutes for a megabyte of punycode in which
            the server would answer nobody, and it keeps every name of one that it does not know.
    """

    def __init__(self, content_type: str, *, limit: int) -> None:
        _, options = parse_options_header(content_type)
        charset = options.get(b"charset", b"utf-8")
        if charset.lower() not in CHARSETS:
            raise MalformedBody(
                f"the form has the charset {charset.decode('latin-1')!r}; expected utf-8"
            )
        if b"boundary" not in options:
            raise _malformed_form("its Content-Type names no boundary")
        self._limit = limit
        self._files: list[bytearray] = []
        self._fields = 0
        self._is_in_file = False
        self._is_closed = False
        self._header_name = self._header_value = self._disposition = b""
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise _malformed_form(str(error)) from error

    def feed(self, chunk: bytes) -> None:
        """Parse the next piece.

        Raises:
            MalformedBody: the body is no form.
            TooManyImages: there are more files than are accepted.
        """
        try:
            self._parser.write(chunk)
        except (FormParserError, UnicodeError) as error:
            raise _malformed_form(str(error)) from error

    def pictures(self) -> list[bytes]:
        """The files, when all pieces have been parsed.

        Raises:
            MalformedBody: the form is not whole; without its end the last files may be missing.
            EmptyBody: there is no file.
        """
        if not self._is_closed:
            raise _malformed_form("it ends before its closing boundary")
        if not self._files:
            raise EmptyBody('the form has no file; send one with curl -F "image=@cat.jpg"')
        return [bytes(file) for file in self._files]

    def _on_part_begin(self) -> None:
        self._disposition = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise _malformed_form("a part has no Content-Disposition with a name")
        self._is_in_file = b"filename" in options
        if self._is_in_file:
            self._files.append(bytearray())
            if len(self._files) > self._limit:
                raise TooManyImages(too_many(f"more than {self._limit}", self._limit))
        else:
            self._fields += 1
            if self._fields > self._limit:
                raise _malformed_form(f"it has more than {self._limit} fields")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_in_file:
            self._files[-1] += data[start:end]

    def _on_end(self) -> None:
        self._is_closed = True


def _malformed_form(reason: str) -> MalformedBody:
    return MalformedBody(f"the multipart body cannot be read: {reason}")


def pictures_of_json(body: bytes | bytearray, *, limit: int) -> list[bytes]:
    """The pictures of a JSON document.

    It is checked by hand and not by a model: a megabyte of wrong entries would make as many errors.

    Args:
        body: the document.
        limit: how many pictures there may be.

    Raises:
        MalformedBody: the document is another one, or an entry is not base64.
        TooManyImages: there are more than `limit`.
    """
    separators = sum(body.count(character) for character in b",:[{")
    if separators > MAX_VALUES:
        raise MalformedBody(
            f"the JSON has {separators:,} values or more, at most {MAX_VALUES:,} are parsed; "
            f"{EXPECTED}, and at most {limit}"
        )
    # One character beyond Latin-1 makes Python keep a whole string in two or four bytes for each.
    if not body.isascii() or body.count(b"\\u") > body.count(b"\\u00"):
        raise MalformedBody(f"the JSON has characters that are not of base64; {EXPECTED}")
    try:
        document = from_json(bytes(body), allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        raise MalformedBody(f"the body is not JSON: {error}") from error
    texts = document.get("images") if isinstance(document, dict) else None
    if not isinstance(texts, list) or not texts or len(document) != 1:
        raise MalformedBody(EXPECTED)
    if len(texts) > limit:
        raise TooManyImages(too_many(f"{len(texts):,}", limit))
    return [_decoded(index, text) for index, text in enumerate(texts)]


def too_many(found: str, limit: int) -> str:
    """The message of TooManyImages."""
    return f"the request has {found} images, at most {limit} are accepted; send several requests"


def _decoded(index: int, text: object) -> bytes:
    if not isinstance(text, str):
        raise MalformedBody(f"images.{index}: expected a string, found {type(text).__name__}")
    try:
        return b"".join(
            _slice_decoded(text[start : start + SLICE], is_last=start + SLICE >= len(text))
            for start in range(0, len(text), SLICE)
        )
    except ValueError as error:
        raise MalformedBody(f"images.{index}: not base64: {error}") from error


def _slice_decoded(text: str, *, is_last: bool) -> bytes:
    if not is_last and text.endswith("="):
        raise binascii.Error("padding before the end")
    return base64.b64decode(text, validate=True)
