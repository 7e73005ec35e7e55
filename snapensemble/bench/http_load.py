"""A small HTTP/1.1 client for load: kept connections, prepared requests, little work per answer."""

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from snapensemble.bench.load import Answer
from snapensemble.client.talk import server_url

TIMEOUT_S = 60.0
PAUSE_S = 0.05  # after a failed connection, or a dead server would get requests without pause
BOUNDARY = "snapensemble-bench"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)")
_MEMBERS_USED = re.compile(rb'"members_used": *(\d+)')


@dataclass(frozen=True, slots=True)
class Reply:
    """A response of the server."""

    status: int
    body: bytes
    keeps: bool = True  # whether the connection stays open


class HttpClient:
    """Has as many connections to one server as there are open requests, and uses them again.

    Args:
        url: for example http://127.0.0.1:8000.

    Raises:
        InvalidConfig: it is no such URL.
    """

    def __init__(self, url: str) -> None:
        self.host, self.port, self.prefix = split_url(url)
        self._idle: list[_Connection] = []

    async def exchange(self, request: bytes) -> Reply:
        """Send a whole request and wait for the response.

        Raises:
            TimeoutError: the response did not come within a minute.
            OSError: there is no connection, or it broke.
        """
        async with asyncio.timeout(TIMEOUT_S):
            connection = await self._connection()
            try:
                reply = await connection.exchange(request)
            except BaseException:
                connection.close()
                raise
        if reply.keeps:
            self._idle.append(connection)
        else:
            connection.close()
        return reply

    async def close(self) -> None:
        """Close the connections that wait for work; the loop may be closed then."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        for connection in idle:
            await connection.closed.wait()

    def request(self, method: str, path: str, body: bytes = b"", media_type: str = "") -> bytes:
        """The bytes of a request."""
        head = f"{method} {self.prefix}{path} HTTP/1.1\r\nhost: {self.host}:{self.port}\r\n"
        if media_type:
            head += f"content-type: {media_type}\r\ncontent-length: {len(body)}\r\n"
        return head.encode() + b"\r\n" + body

    async def _connection(self) -> "_Connection":
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed.is_set():
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self.host, self.port)
        return connection


class Predictions:
    """Sends POST /predict, each request from one of the prepared groups of pictures in turn."""

    def __init__(
        self, client: HttpClient, groups: Sequence[Sequence[bytes]], query: str = ""
    ) -> None:
        self._client = client
        path = f"/predict?{query}" if query else "/predict"
        self._requests = [client.request("POST", path, *body_of(group)) for group in groups]

    async def __call__(self, number: int) -> Answer:
        """Send the request of this number; what goes wrong is a code in the answer."""
        try:
            reply = await self._client.exchange(self._requests[number % len(self._requests)])
        except TimeoutError:
            return Answer("no_answer")
        except OSError:
            await asyncio.sleep(PAUSE_S)
            return Answer("connection_failed")
        return answer_of(reply)


class _Connection(asyncio.Protocol):
    """A connection that carries one request at a time."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self._received = bytearray()
        self._transport: asyncio.WriteTransport
        self._reply: asyncio.Future[Reply] | None = None

    def connection_made(self, transport: asyncio.WriteTransport) -> None:  # type: ignore[override]
        self._transport = transport

    async def exchange(self, request: bytes) -> Reply:
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._reply

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            reply = parse(self._received)
        except ConnectionError as error:
            self._fail(error)
            self.close()
            return
        if reply is not None and self._reply is not None and not self._reply.done():
            self._received.clear()
            self._reply.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set()
        self._fail(error or ConnectionResetError("the server closed the connection"))

    def _fail(self, error: Exception) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error)

    def close(self) -> None:
        self._transport.close()


def parse(received: bytes | bytearray) -> Reply | None:
    """A response, or None as long as it is not complete.

    Only what this server and its like send is read: a status line, headers, and a body of
    announced length.

    Raises:
        ConnectionError: the response does not tell its length.
    """
    head_end = received.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    head = bytes(received[:head_end]).lower()
    length = _LENGTH.search(head)
    if length is None:
        raise ConnectionError("the response has no content-length")
    body_start, size = head_end + 4, int(length[1])
    if len(received) < body_start + size:
        return None
    body = bytes(received[body_start : body_start + size])
    return Reply(int(head.split(b" ", 2)[1]), body, b"\r\nconnection: close" not in head)


def answer_of(reply: Reply) -> Answer:
    """The answer that a response to POST /predict carries."""
    if reply.status == 200:
        return Answer(members_used=sum(map(int, _MEMBERS_USED.findall(reply.body))))
    try:
        return Answer(str(json.loads(reply.body)["code"]))
    except (ValueError, LookupError, TypeError):
        return Answer(f"http_{reply.status}")


def body_of(pictures: Sequence[bytes]) -> tuple[bytes, str]:
    """A body and its media type: one picture as it is, several as a form."""
    if len(pictures) == 1:
        return pictures[0], "application/octet-stream"
    parts = [
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="image"; filename="{index}"\r\n\r\n'
        .encode() + picture + b"\r\n"
        for index, picture in enumerate(pictures)
    ]  # fmt: skip
    body = b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])
    return body, f"multipart/form-data; boundary={BOUNDARY}"


def split_url(url: str) -> tuple[str, int, str]:
    """The host, the port, and the path in front of the server's own paths."""
    server = server_url(url, ("http",))
    return server.host, server.port or 80, server.prefix
