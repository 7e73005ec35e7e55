"""A request's body -> encoded pictures, within limits that hold while it arrives."""

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from serving.errors import (
    BodyTimeout,
    BodyTooLarge,
    EmptyBody,
    MalformedBody,
    Overloaded,
    TooManyImages,
    UnsupportedMediaType,
)
from serving.schemas import JsonImages
from serving.settings import Settings

FORMS = (
    "one picture as the body (Content-Type: image/png, image/jpeg, … or application/octet-stream), "
    'files as multipart/form-data, or JSON {"images": [base64, …]}'
)


class Intake:
    """Reads bodies, and knows how many bytes all requests hold together."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.bytes_in_flight = 0

    async def read(self, request: Request) -> list[bytes]:
        """The encoded pictures of a request, at least one, none of them decoded yet.

        The bytes count as in flight until `release` is called with `request`.

        Raises:
            BodyTooLarge, EmptyBody, BodyTimeout, MalformedBody, UnsupportedMediaType,
            TooManyImages: what the request got wrong.
            Overloaded: all requests together hold too much.
            ClientDisconnect: the sender left.
        """
        media_type = request.headers.get("content-type", "application/octet-stream")
        media_type = media_type.partition(";")[0].strip().lower()
        self._refuse_announced(request)
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                pictures = await self._pictures(request, media_type)
        except TimeoutError:
            raise BodyTimeout(
                f"the body did not arrive within {self._settings.body_timeout_s:g} s"
            ) from None
        if len(pictures) > self._settings.max_images_per_request:
            raise TooManyImages(self._too_many(str(len(pictures))))
        return pictures

    def release(self, request: Request) -> None:
        """The request is answered: its bytes no longer count."""
        self.bytes_in_flight -= getattr(request.state, "bytes_held", 0)
        request.state.bytes_held = 0

    async def _pictures(self, request: Request, media_type: str) -> list[bytes]:
        if media_type == "multipart/form-data":
            return await self._multipart(request)
        if media_type == "application/json":
            return decode_json(await self._whole(request))
        if media_type == "application/octet-stream" or media_type.startswith("image/"):
            return [await self._whole(request)]
        raise UnsupportedMediaType(f"Content-Type {media_type!r}; send {FORMS}")

    async def _whole(self, request: Request) -> bytes:
        body = bytearray()
        async for chunk in self._limited(request):
            body += chunk
        if not body:
            raise EmptyBody(f"the body is empty; send {FORMS}")
        return bytes(body)

    async def _multipart(self, request: Request) -> list[bytes]:
        limit = self._settings.max_images_per_request
        parser = MultiPartParser(
            request.headers, self._limited(request), max_files=limit, max_fields=limit
        )
        # Never to a temporary file: the container's file system is read-only.
        parser.spool_max_size = self._settings.max_body_bytes + 1
        try:
            form = await parser.parse()
        except MultiPartException as error:
            if "Too many files" in error.message:
                raise TooManyImages(self._too_many(f"more than {limit}")) from error
            raise MalformedBody(f"the multipart body cannot be read: {error.message}") from error
        try:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            if not files:
                raise EmptyBody('the form has no file; send one with curl -F "image=@cat.jpg"')
            return [await file.read() for file in files]
        finally:
            await form.close()

    async def _limited(self, request: Request) -> AsyncGenerator[bytes, None]:
        """The body's chunks; ends with an error at the first byte over a limit."""
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            self.bytes_in_flight += len(chunk)
            request.state.bytes_held = received
            if received > self._settings.max_body_bytes:
                raise BodyTooLarge(self._too_large("more than "))
            if self.bytes_in_flight > self._settings.max_bytes_in_flight:
                raise Overloaded("too many bytes are in flight; try again later", 1.0)
            yield chunk

    def _refuse_announced(self, request: Request) -> None:
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._settings.max_body_bytes:
            raise BodyTooLarge(self._too_large(f"{int(announced):,}, more than "))

    def _too_large(self, found: str) -> str:
        limit = self._settings.max_body_bytes
        return f"the body has {found}{limit:,} bytes; send fewer or smaller images per request"

    def _too_many(self, found: str) -> str:
        limit = self._settings.max_images_per_request
        return (
            f"the request has {found} images, at most {limit} are accepted; send several requests"
        )


def decode_json(body: bytes) -> list[bytes]:
    """The pictures of `{"images": [base64, …]}`.

    Raises:
        MalformedBody: not such a document, or an entry is not base64.
    """
    try:
        document = JsonImages.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise MalformedBody(
            f'{where}: {first["msg"]}; expected {{"images": [base64, …]}}'
        ) from error
    pictures = []
    for index, text in enumerate(document.images):
        try:
            pictures.append(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError) as error:
            raise MalformedBody(f"images.{index}: not base64: {error}") from error
    return pictures
