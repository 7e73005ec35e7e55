"""Bodies with Content-Encoding, from the request to the answer."""

import asyncio
import base64
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from snapensemble.serving.errors import EmptyBody, ServingError
from snapensemble.serving.http.app import create_app
from snapensemble.serving.http.body import Body
from snapensemble.serving.http.exchange import STATE, RequestState
from snapensemble.serving.http.media.encodings import CODINGS
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.settings import Settings
from tests.factories import encoded, picture
from tests.fakes import client, prediction_scope
from tests.serving.conftest import LIMITS
from tests.serving.http.media.packing import PACK
from tests.serving.http.test_http import is_problem

pytestmark = pytest.mark.extra

PICTURES = [encoded(picture(seed)) for seed in range(3)]
BMP = encoded(picture(0, width=100, height=100), "BMP")
FORM = httpx.Request(
    "POST",
    "http://x",
    files=[("f", ("a.png", each)) for each in PICTURES],
    headers={"content-type": "multipart/form-data; boundary=of-this-test"},
)
BODIES = {
    "image/bmp": BMP,
    "application/octet-stream": PICTURES[0],
    FORM.headers["content-type"]: FORM.read(),
    "application/json": json.dumps(
        {"images": [base64.b64encode(each).decode() for each in PICTURES]}
    ).encode(),
}


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def post(
    http: httpx.AsyncClient, body: bytes, encoding: str, kind: str = "image/bmp"
) -> httpx.Response:
    headers = {"content-type": kind, "content-encoding": encoding}
    return await http.post("/predict", content=body, headers=headers)


def predictions(reply: httpx.Response) -> list[dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    found: list[dict[str, Any]] = reply.json()["predictions"]
    return found


@pytest.mark.parametrize("coding", PACK)
@pytest.mark.parametrize("kind", BODIES)
async def test_a_packed_body_is_answered_as_the_body(
    http: httpx.AsyncClient, coding: str, kind: str
) -> None:
    plain = await http.post("/predict", content=BODIES[kind], headers={"content-type": kind})
    packed = PACK[coding](BODIES[kind])
    headers = {"content-type": kind, "content-encoding": coding}
    for content in (packed, pieces(packed, 100)):
        reply = await http.post("/predict", content=content, headers=headers)
        for one, other in zip(predictions(reply), predictions(plain), strict=True):
            np.testing.assert_allclose(one["probabilities"], other["probabilities"], atol=1e-6)


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "br, gzip"])
async def test_an_encoding_that_is_not_read_is_answered_with_those_that_are(
    http: httpx.AsyncClient, encoding: str
) -> None:
    reply = await post(http, BMP, encoding)
    assert encoding in is_problem(reply, 415, "unsupported_media_type")
    assert reply.headers["accept-encoding"] == ", ".join(CODINGS)
    assert reply.headers["connection"] == "close"


async def test_two_headers_are_one_list(http: httpx.AsyncClient) -> None:
    headers = [("content-encoding", "identity"), ("content-encoding", "br")]
    reply = await http.post("/predict", content=BMP, headers=headers)
    assert "'identity, br'" in is_problem(reply, 415, "unsupported_media_type")


async def test_a_media_type_that_is_not_read_is_no_matter_of_the_encoding(
    http: httpx.AsyncClient,
) -> None:
    reply = await post(http, gzip.compress(BMP), "gzip", "text/plain")
    is_problem(reply, 415, "unsupported_media_type")
    assert "accept-encoding" not in reply.headers  # RFC 7694, section 3


@pytest.mark.parametrize("coding", PACK)
@pytest.mark.parametrize("kind", BODIES)
async def test_each_way_to_be_wrong_has_its_answer(
    http: httpx.AsyncClient, coding: str, kind: str
) -> None:
    whole = PACK[coding](BODIES[kind])
    is_form = kind.startswith("multipart")  # without its boundary it is none
    for body, status, code in (
        (b"", 400, "malformed_body" if is_form else "empty_body"),
        (PACK[coding](b""), 400, "malformed_body" if is_form else "empty_body"),
        (b"no stream", 400, "malformed_body"),
        (BODIES[kind], 400, "malformed_body"),
        (whole[:-5], 400, "malformed_body"),
        (whole + b"garbage", 400, "malformed_body"),
        (PACK[coding](BODIES[kind] + b" " * LIMITS.max_body_bytes), 413, "body_too_large"),
    ):
        reply = await post(http, body, coding, kind)
        is_problem(reply, status, code)
    assert (await post(http, whole, coding, kind)).status_code == 200


async def test_a_bomb_is_refused_by_its_ratio(engine: Engine) -> None:
    async with client(create_app(Settings(), engine)) as http:
        reply = await post(http, zlib.compress(bytes(2**24)), "deflate")
        assert "200 times its size" in is_problem(reply, 413, "body_too_large")


class Receiver:
    """Gives a body in pieces, and sees what is held when each is asked for."""

    def __init__(self, app: FastAPI, data: bytes, size: int) -> None:
        self.held: list[int] = []
        self._memory = app.state.service.model().admission.memory
        self._pieces = [data[start : start + size] for start in range(0, len(data) or 1, size)]

    async def __call__(self) -> dict[str, Any]:
        self.held.append(self._memory.held)
        piece = self._pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}


@pytest.mark.parametrize("coding", PACK)
async def test_what_is_unpacked_is_held_while_it_arrives(app: FastAPI, coding: str) -> None:
    body = bytes(range(256)) * 300
    receive = Receiver(app, PACK[coding](body), 32)
    scope = prediction_scope([(b"content-encoding", coding.encode())])
    scope["state"][STATE] = RequestState()
    with app.state.service.model().admission.request() as request:
        assert await Body(scope, receive, request, LIMITS).content() == body
        most = len(body) + min(CODINGS[coding].window, len(body))
        assert max(receive.held) <= most + 32
        assert receive.held == sorted(receive.held)
        assert app.state.service.model().admission.memory.held == len(body)


async def test_others_have_their_turn_while_a_body_is_unpacked(app: FastAPI) -> None:
    body = bytes(90_000)
    scope = prediction_scope([(b"content-encoding", b"gzip")])
    scope["state"][STATE] = RequestState(is_whole=True)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    with app.state.service.model().admission.request() as request:
        receive = Receiver(app, gzip.compress(body), 1000)
        assert await Body(scope, receive, request, LIMITS).content() == body
    task.cancel()
    assert turns >= 2


@pytest.mark.parametrize("kind", [b"text/plain", b"application/x-anything", b""])
async def test_content_is_given_whatever_its_type(app: FastAPI, kind: bytes) -> None:
    scope = prediction_scope([(b"content-type", kind)])
    scope["state"][STATE] = RequestState()
    with app.state.service.model().admission.request() as request:
        receive = Receiver(app, b"anything at all", 4)
        assert await Body(scope, receive, request, LIMITS).content() == b"anything at all"


@pytest.mark.parametrize(
    ("data", "headers", "error"),
    [
        (b"", [], EmptyBody),
        (gzip.compress(b"", mtime=0), [(b"content-encoding", b"gzip")], EmptyBody),
        (b"x", [(b"content-encoding", b"br")], ServingError),
        (bytes(LIMITS.max_body_bytes + 1), [], ServingError),
    ],
)
async def test_content_is_refused_as_pictures_are(
    app: FastAPI, data: bytes, headers: list[tuple[bytes, bytes]], error: type[Exception]
) -> None:
    scope = prediction_scope(headers)
    scope["state"][STATE] = RequestState()
    with app.state.service.model().admission.request() as request, pytest.raises(error):
        await Body(scope, Receiver(app, data, 2**20), request, LIMITS).content()
