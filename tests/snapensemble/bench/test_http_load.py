"""The client of the benchmarks, against servers that a test writes out."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from snapensemble.bench.http_load import (
    HttpClient,
    Predictions,
    Reply,
    answer_of,
    body_of,
    parse,
    split_url,
)
from snapensemble.bench.load import Answer
from snapensemble.contracts.errors import InvalidConfig

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
RESPONSE = b'HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{"members_used": 3}'


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[HttpClient]:
    async def handled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handled, "127.0.0.1", 0)
    client = HttpClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with server:
        yield client
        await client.close()


def test_a_response_is_read_once_it_is_complete() -> None:
    for end in range(len(RESPONSE)):
        assert parse(RESPONSE[:end]) is None
    assert parse(RESPONSE) == Reply(200, b'{"members_used": 3}')


def test_a_server_that_will_close_says_so() -> None:
    reply = parse(b"HTTP/1.1 503 X\r\nConnection: close\r\ncontent-length: 0\r\n\r\n")
    assert reply == Reply(503, b"", keeps=False)


def test_a_response_of_unknown_length_is_refused() -> None:
    with pytest.raises(ConnectionError, match="no content-length"):
        parse(b"HTTP/1.1 200 OK\r\n\r\n")


@pytest.mark.parametrize(
    ("status", "body", "answer"),
    [
        (200, b'{"members_used":3},{"members_used": 1}', Answer(members_used=4)),
        (503, b'{"code": "overloaded"}', Answer("overloaded")),
        (502, b"<html>", Answer("http_502")),
        (500, b"[1]", Answer("http_500")),
    ],
)
def test_what_a_response_says(status: int, body: bytes, answer: Answer) -> None:
    assert answer_of(Reply(status, body)) == answer


def test_one_picture_is_the_body_and_several_are_a_form() -> None:
    assert body_of([b"png"]) == (b"png", "application/octet-stream")
    form, media_type = body_of([b"one", b"two"])
    boundary = media_type.partition("boundary=")[2].encode()
    assert form.count(b"--" + boundary + b"\r\n") == 2
    assert b"\r\n\r\none\r\n" in form and b"\r\n\r\ntwo\r\n--" + boundary + b"--\r\n" in form


async def test_connections_are_used_again() -> None:
    connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await reader.readline():
            if await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(3)
                writer.write(RESPONSE)

    async with serving(handler) as client:
        ask = Predictions(client, [[b"png"]])
        assert [await ask(number) for number in range(5)] == [Answer(members_used=3)] * 5
    assert connections == 1


async def test_a_connection_that_breaks_is_a_code_and_the_next_request_has_another() -> None:
    connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\npng")
        writer.write(RESPONSE if connections == 2 else RESPONSE[:30])

    async with serving(handler) as client:
        ask = Predictions(client, [[b"png"]])
        assert await ask(0) == Answer("connection_failed")
        assert await ask(1) == Answer(members_used=3)


async def test_nobody_there_is_a_code() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    ask = Predictions(HttpClient(f"http://127.0.0.1:{port}"), [[b"png"]])
    assert await ask(0) == Answer("connection_failed")


@pytest.mark.parametrize("url", ["127.0.0.1:80", "https://a", "http://", "http://a:port"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidConfig, match="--url"):
        split_url(url)


def test_a_server_may_live_under_a_path() -> None:
    assert split_url("http://a.test/models/") == ("a.test", 80, "/models")
