"""uvicorn's fast HTTP protocol, with limits on what comes before and between bodies.

And with a shorter way for predictions that arrive whole.
"""

import asyncio
import sys
from http import HTTPStatus
from typing import Any

from pydantic_core import to_json
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.at_once import AtOnce, Headers
from serving.crowd import CROWDED
from serving.problems import MEDIA_TYPE, problem_body
from serving.routes import PREDICT

MAX_HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT_S = 30.0
HEAD_TOO_LARGE = problem_body(
    431,
    "head_too_large",
    "The request line and headers are too large",
    f"at most {MAX_HEAD_BYTES:,} bytes are accepted before the body",
)
MALFORMED_REQUEST = problem_body(
    400,
    "malformed_request",
    "The request is not HTTP",
    "the request line, the headers or the chunks of the body cannot be read",
)


class GuardedProtocol(HttpToolsProtocol):
    """Refuses endless and endlessly slow heads, and keeps the body of upgrade requests.

    Requests of connections beyond `max_connections` are marked as `serving.crowd` knows them.
    httptools takes headers, trailers and chunk extensions of any length, and hands a POST with
    `Upgrade: h2c`, as some clients send by default, to the application without its body.
    """

    def __init__(
        self,
        *args: Any,
        max_connections: int = sys.maxsize,
        at_once: AtOnce | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._arguments = args, kwargs
        self._max_connections = max_connections
        self._at_once = at_once
        # The body of a prediction, as long as it may still arrive whole.
        self._body: bytearray | None = None
        self._is_one_too_many = False
        # Bytes since the last that were a body, or the end of a head or of a message.
        self._overhead = 0
        self._between_messages = True
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected and must say something soon."""
        super().connection_made(transport)
        self._is_one_too_many = len(self.connections) > self._max_connections
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, then see whether it got anywhere."""
        if self._between_messages and b"pgrade:" in data:
            self._hand_over(data)
            return
        self._overhead += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        self._go_on_without_the_rest()
        if self._in_head and self._head_timer is None:
            self._start_head_timer()
        if self._overhead > MAX_HEAD_BYTES:
            refuse(self.transport, HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._between_messages = False
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The application may start, unless it is not needed."""
        self._overhead = 0
        self._in_head = False
        self._stop_head_timer()
        if self._may_be_answered_at_once():
            self._body = bytearray()
        else:
            self._start_application()

    def on_body(self, body: bytes) -> None:
        """A piece of the body, which the application limits."""
        self._overhead = 0
        if self._body is None:
            super().on_body(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        self._overhead = 0
        self._between_messages = True
        if self._at_once is not None and self._body is not None:
            exchange = self._at_once.begin(
                self,
                self.headers,
                self.url.partition(b"?")[2],
                bytes(self._body),
                keep_alive=self.parser.should_keep_alive(),
            )
            if exchange is not None:
                self._body = None
                self.cycle = exchange  # type: ignore[assignment] # all of it that uvicorn uses
                return
            self._go_on_without_the_rest()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 # uvicorn's word for it
        """Refuse what the parser does not understand."""
        refuse(self.transport, MALFORMED_REQUEST)

    @property
    def default_headers(self) -> Headers:
        """Of every answer: the date."""
        return self.server_state.default_headers

    def _may_be_answered_at_once(self) -> bool:
        """Whether a head is that of a prediction, and nothing else is under way."""
        return (
            self._at_once is not None
            and self.url.partition(b"?")[0] == PREDICT.encode()
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
            and not self._is_one_too_many
            and not self.flow.write_paused
            and not self.transport.is_closing()
            and (self.cycle is None or self.cycle.response_complete)
        )

    def _go_on_without_the_rest(self) -> None:
        """Let the application have a request that did not arrive whole, or is not simple."""
        if self._body is None:
            return
        body, self._body = bytes(self._body), None
        self._start_application()
        if body:
            super().on_body(body)

    def _start_application(self) -> None:
        if self._is_one_too_many:
            self.scope["extensions"] = {CROWDED: {}}
        super().on_headers_complete()

    def _hand_over(self, data: bytes) -> None:
        """Let uvicorn's slower protocol, which ignores upgrades, have this connection."""
        self._stop_head_timer()
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        args, kwargs = self._arguments
        other = _PatientProtocol(*args, **kwargs)
        other.connection_made(self.transport)
        self.transport.set_protocol(other)
        other.data_received(data)

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class _PatientProtocol(H11Protocol):
    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 # uvicorn's word for it
        refuse(self.transport, MALFORMED_REQUEST)


def refuse(transport: asyncio.Transport, problem: dict[str, Any]) -> None:
    """Answer with a problem document that no application has made, and hang up."""
    body = to_json(problem)
    reason = HTTPStatus(problem["status"]).phrase
    transport.write(
        b"HTTP/1.1 %d %b\r\nconnection: close\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b"
        % (problem["status"], reason.encode(), MEDIA_TYPE.encode(), len(body), body)
    )
    transport.close()
