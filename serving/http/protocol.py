"""uvicorn's fast HTTP protocol, with a limit on everything that one connection can do.

A connection has one request at a time: what comes behind a request is not parsed before that
request is answered. So answers are in the order of requests, nothing piles up, and a connection
that is lost is that of the request under way.
"""

import asyncio
import math
import sys
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from snapensemble.serving.errors import Overloaded
from snapensemble.serving.http import head
from snapensemble.serving.http.exchange import STATE, RequestState
from snapensemble.serving.http.problems import (
    HEAD_TOO_LARGE,
    MALFORMED,
    NO_MEMORY,
    Refusal,
    Refused,
)
from snapensemble.serving.http.timekeeper import Timekeeper
from snapensemble.serving.inference.admission import MemoryBudget, Share

MAX_WAITING_BYTES = 64 * 1024  # that came behind a request which is not answered yet
MAX_REST_BYTES = 64 * 2**20  # that are thrown away behind the last answer
HEAD_TIMEOUT_S = 30.0
REST_TIMEOUT_S = 10.0  # for the rest of a body that was refused
WRITE_TIMEOUT_S = 30.0  # for a client to take what was written
CLOSE_TIMEOUT_S = 5.0
# Times for a request on its way when the server stops, and for the rest of one that has begun.
LAST_REQUEST_S, LAST_HEAD_S = 0.1, 1.0


class GuardedProtocol(HttpToolsProtocol):
    """The protocol of one connection, between its transport and the application.

    Args:
        room: of more connections than that the newest is hung up on.
        max_connections: requests of more connections are marked as crowded.
        memory: counts heads that are not complete, bytes that wait behind a request, and answers
            that their client does not take.
        timekeeper: calls `look_at_the_clock`.
        on_refusal: called for each answer that no application has made, with status, code and
            whether the application will count the request.
    """

    def __init__(
        self,
        *args: Any,
        room: int,
        max_connections: int = sys.maxsize,
        memory: MemoryBudget | None = None,
        timekeeper: Timekeeper | None = None,
        on_refusal: Callable[[int, str, bool], None] = lambda *_: None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._max_connections = max_connections
        self._room = room
        memory = memory or MemoryBudget(sys.maxsize)
        self._kept, self._untaken = Share(memory), Share(memory)
        self._timekeeper = timekeeper or Timekeeper()
        self._on_refusal = on_refusal
        self._is_crowded = False
        self._state = RequestState()  # that of the request that has begun last
        self._head = head.Progress()
        self._in_message = False  # true from a request's first byte to its last
        self._body_left: int | None = 0  # bytes; None: it comes in chunks, and nobody knows
        self._waiting = bytearray()
        self._ignores_data = False  # what comes is thrown away
        self._rest_bytes = 0  # that have come behind the last answer
        self._is_last = False  # the server stops, so no other request may come
        self._is_upgrade = False
        self._read_by = math.inf  # by the event loop's clock
        self._written_by = math.inf

    # Called by the transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected and must send something soon."""
        gathering = GatheringTransport(transport, self.loop, self._is_receiving)
        super().connection_made(cast("asyncio.Transport", gathering))
        self._is_crowded = len(self.connections) > self._max_connections
        self._timekeeper.add(self)
        self._read_within(HEAD_TIMEOUT_S)
        if len(self.connections) > self._room:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or was sent away."""
        self._timekeeper.discard(self)
        self._ignores_data = True
        self._waiting.clear()
        self._kept.hold(0)
        self._untaken.hold(0)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come: parse them, or keep them behind the request under way."""
        if self.transport.is_closing():
            self._rest_bytes += len(data)
            if self._rest_bytes > MAX_REST_BYTES:
                self.transport.close()
            return
        if self._ignores_data:
            return
        if self._waiting or self._is_answering():
            self._wait(data)
        else:
            self._parse(data)
        self._count_what_is_kept()

    def pause_writing(self) -> None:
        """The client takes less than is written; it may for a time, and while there is room."""
        super().pause_writing()
        self._written_by = self.loop.time() + WRITE_TIMEOUT_S
        try:
            self._untaken.hold(self.transport.get_write_buffer_size())
        except Overloaded:
            self.transport.abort()

    def resume_writing(self) -> None:
        """The client has taken what was written."""
        super().resume_writing()
        self._written_by = math.inf
        self._untaken.hold(0)

    def look_at_the_clock(self, now: float) -> None:
        """End what has lasted too long; the timekeeper calls this once in a while."""
        if self.transport.is_closing() or now > self._written_by:
            if self._written_by is math.inf:
                self._written_by = now + CLOSE_TIMEOUT_S  # for what is still to be written
            elif now > self._written_by:
                self.transport.abort()
        elif now > self._read_by:
            self.transport.close()

    def shutdown(self) -> None:
        """The server stops: the request under way, or on its way, is the last."""
        self._is_last = True
        if self._is_answering():
            self.cycle.keep_alive = False
        elif self._in_message and not (self._head.is_complete or self.transport.is_closing()):
            self._read_within(LAST_HEAD_S)
        else:
            self.loop.call_later(LAST_REQUEST_S, self._close_if_idle)

    # Called by the parser.

    def on_message_begin(self) -> None:
        """The first byte of a request has come."""
        if self._is_answering():
            raise _NotYet
        self._in_message = True
        self._read_within(HEAD_TIMEOUT_S)
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has come, or a trailer, which nobody reads."""
        if not self._head.is_complete:
            super().on_header(name, value)
            self._head.header()
            if self._head.is_too_large:
                raise Refused(HEAD_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """The head has come, so the application may start."""
        self._body_left = head.framing(
            self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers
        )
        self._is_upgrade = self.parser.should_upgrade()
        if not self._is_upgrade:  # otherwise `_without_upgrade` begins the request again
            self._state = RequestState(is_crowded=self._is_crowded)
            self.scope["state"][STATE] = self._state
            super().on_headers_complete()  # raises where the request is for no path
            self._read_by = math.inf  # the application knows how long a body may take
            if self._is_last:
                self.cycle.keep_alive = False
        self._head.is_complete = True
        self._head.overhead = 0

    def on_body(self, body: bytes) -> None:
        """A piece of the body has come, whose size the application limits."""
        self._head.overhead = 0
        if self._body_left is not None:
            self._body_left -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The last byte of a request has come."""
        self._in_message = False
        self._head = head.Progress()
        if self._is_upgrade:
            return
        if self.cycle.response_complete:
            self._read_within(self.timeout_keep_alive)
        self._state.is_whole = True
        super().on_message_complete()

    # Called when the application has answered.

    def on_response_complete(self) -> None:
        """The answer is written; the next request may begin."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self._in_message and self.expect_100_continue:
            self.transport.close()  # the body may never come, or be taken for the next request
        elif self._in_message:
            self._read_within(REST_TIMEOUT_S)
        else:
            self._read_within(self.timeout_keep_alive)
            if self._waiting:
                self.loop.call_soon(self._go_on)

    # One request at a time.

    def _is_answering(self) -> bool:
        """Whether a request has come whole and its answer is not written."""
        return not self._in_message and self.cycle is not None and not self.cycle.response_complete

    def _parse(self, data: bytes) -> None:
        """Feed the parser with no more than belongs to one request, as far as can be known."""
        while data and not self._ignores_data:
            if self._is_answering():
                self._wait(data)
                return
            size = self._body_left if self._head.is_complete else self._head.size_of_rest(data)
            piece = data[:size] if size else data
            data = data[len(piece) :]
            self._feed(piece)

    def _feed(self, piece: bytes) -> None:
        self._head.came(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._without_upgrade(piece[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if self._is_answering():  # no refusal may come before the answer
                self._end_with_this_answer()
            else:
                reason = error.__context__
                self._refuse(reason.refusal if isinstance(reason, Refused) else MALFORMED)
        else:
            if self._head.is_too_large:
                self._refuse(HEAD_TOO_LARGE)

    def _without_upgrade(self, rest: bytes) -> None:
        """Parse a request with `Upgrade:` as the ordinary one that it is here, body and all.

        The parser stops behind its head and takes what follows for another protocol.
        """
        again = head.without_upgrade(
            self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers
        )
        self.parser = httptools.HttpRequestParser(self)
        self._parse(again + rest)

    def _wait(self, data: bytes) -> None:
        """Keep what came behind a request that is not answered yet, within bounds."""
        self._waiting += data
        if len(self._waiting) > MAX_WAITING_BYTES:
            self._end_with_this_answer()

    def _go_on(self) -> None:
        """Parse what has waited behind the request that is answered now."""
        if self.transport.is_closing():
            return
        data = bytes(self._waiting)
        self._waiting.clear()
        self._parse(data)
        self._count_what_is_kept()

    # Ways to end a connection.

    def _end_with_this_answer(self) -> None:
        """Answer the request under way, and hang up."""
        self._ignores_data = True
        self._waiting.clear()
        self.cycle.keep_alive = False

    def _refuse(self, refusal: Refusal) -> None:
        """Answer in place of the application, and hang up."""
        self._ignores_data = True
        self._waiting.clear()
        is_running = self._in_message and self._head.is_complete and not self._is_upgrade
        self._on_refusal(refusal.status, refusal.code, is_running)
        if is_running:
            cycle = self.cycle
            if not (cycle.response_complete or cycle.response_started):
                self._state.refused_status = refusal.status
                self.transport.write(refusal.answer)
            cycle.disconnected = True  # for the application it is as if the client had left
            cycle.message_event.set()
        else:
            self.transport.write(refusal.answer)
        self.transport.close()

    def _is_receiving(self) -> bool:
        """Whether a client who sends in time has more to send."""
        is_in_time = self.loop.time() <= self._read_by and not self._is_last
        return is_in_time and (self._in_message or self._ignores_data)

    def _close_if_idle(self) -> None:
        if self.transport.is_closing() or not (self._in_message or self._is_answering()):
            self.transport.close()

    def _count_what_is_kept(self) -> None:
        """Count bytes that are kept here between two calls, as those of requests are counted."""
        kept = len(self._waiting)
        if not (self._head.is_complete or self._ignores_data):
            kept += self._head.overhead
        try:
            self._kept.hold(kept)
        except Overloaded:
            if self._is_answering():
                self._end_with_this_answer()
            else:
                self._refuse(NO_MEMORY)
            self._kept.hold(0)

    def _read_within(self, seconds: float) -> None:
        self._read_by = self.loop.time() + seconds


class _NotYet(Exception):
    """A request begins before the one before it is answered."""


class GatheringTransport:
    """A transport that sends all that is written in one turn of the event loop with one call.

    uvicorn writes the head of an answer and its body by themselves, and each write is a call of
    the system, which for a small answer costs as much as all that its head took to make.

    Args:
        transport: sends the bytes.
        loop: the event loop.
        is_receiving: whether the client may still be sending.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        is_receiving: Callable[[], bool] = lambda: False,
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._is_receiving = is_receiving
        self._has_said_all = False
        self._gathered: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send these bytes soon, together with those of the same turn."""
        if not self._gathered:
            self._loop.call_soon(self._flush)
        self._gathered.append(data)

    def is_closing(self) -> bool:
        """Whether nothing that is written from now on will be sent."""
        return self._has_said_all or self._transport.is_closing()

    def close(self) -> None:
        """Send what is written, then close: at once, or when a client that sends has ended.

        The system resets a connection that is closed under bytes on their way, and the answer is
        lost to a client that listens when it has sent all (RFC 9112, 9.6). A second call closes.
        """
        self._flush()
        if self.is_closing() or not self._is_receiving():
            self._transport.close()
        else:
            self._has_said_all = True
            self._transport.write_eof()
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once."""
        self._gathered.clear()
        self._transport.abort()

    def _flush(self) -> None:
        if not self._gathered:
            return
        data = b"".join(self._gathered)
        self._gathered.clear()
        if not self.is_closing():  # the client may have left in the same turn
            self._transport.write(data)
