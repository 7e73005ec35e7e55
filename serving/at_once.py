"""Predictions that arrive whole, head and body, are answered without a task or an ASGI message.

Most small pictures arrive like that. Whatever is not simple takes the way of all other requests,
through `serving.app`; clients get the same answers on both.
"""

import asyncio
import logging
import time
from http import HTTPStatus
from typing import Protocol

from serving.errors import ServingError
from serving.headers import DEFAULTS
from serving.intake import essence, is_picture
from serving.logs import id_of_request, request_id
from serving.problems import internal_problem, serving_problem
from serving.query import options_of
from serving.routes import NO_ANSWER, PREDICT, said_of
from serving.service import Asked, Service
from serving.tokens import Tokens
from serving.waiting import Answer

log = logging.getLogger("snapensemble")
STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
COMMON = b"".join(b"%b: %b\r\n" % pair for pair in DEFAULTS.items())
Headers = list[tuple[bytes, bytes]]


class Connection(Protocol):
    """What a request needs to know of where it came from: of uvicorn's protocol."""

    transport: asyncio.Transport

    @property
    def default_headers(self) -> Headers:
        """Of every answer: the date."""

    def on_response_complete(self) -> None:
        """The next request may begin."""


class AtOnce:
    """Begins to answer whole requests, where it can.

    Args:
        service: answers.
        tokens: who may ask; None: everybody.
    """

    def __init__(self, service: Service, tokens: Tokens | None) -> None:
        self._service = service
        self._tokens = tokens

    def begin(
        self,
        connection: Connection,
        headers: Headers,
        query: bytes,
        body: bytes,
        *,
        keep_alive: bool,
    ) -> "Exchange | None":
        """Accept or refuse a request to POST /predict; None if it must take the other way.

        Args:
            connection: where the answer goes.
            headers: names in lower case.
            query: undecoded.
            body: all of it.
            keep_alive: whether another request may follow.
        """
        service = self._service
        if service.life.stopping or not 0 < len(body) <= service.settings.max_body_bytes:
            return None
        for name, value in headers:
            if name == b"content-type" and not is_picture(essence(value.decode("latin-1"))):
                return None
            if name == b"origin" and service.settings.allowed_origins:
                return None
        if self._tokens is not None and not self._tokens.accept(headers):
            return None
        try:
            asked = service.asked(options_of(query))
        except Exception:
            return None  # the other way says what is wrong
        if asked.options.deadline_ms is not None:
            return None
        exchange = Exchange(service, connection, asked, id_of_request(headers), keep_alive)
        exchange.begin(body)
        return exchange


class Exchange:
    """One request. To uvicorn's protocol it is the `cycle` that is under way.

    Args:
        service: answers.
        connection: where the answer goes.
        asked: what for.
        identity: of the request.
        keep_alive: whether another may follow.
    """

    def __init__(
        self,
        service: Service,
        connection: Connection,
        asked: Asked,
        identity: str,
        keep_alive: bool,
    ) -> None:
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False
        self._service = service
        self._connection = connection
        self._asked = asked
        self._identity = identity
        self._started = time.monotonic()
        self._answer: Answer | None = None
        self._entered = 0  # images
        self._held = 0  # bytes

    @property
    def message_event(self) -> "Exchange":
        """What uvicorn sets when something has changed."""
        return self

    def set(self) -> None:
        """The client may have left."""
        if self.disconnected and not self.response_complete:
            if self._answer is not None:
                self._answer.cancel()
            self._service.metrics.departed.inc()
            self._end(NO_ANSWER)

    def begin(self, body: bytes) -> None:
        """Hand the picture in, or refuse it."""
        try:
            self._entered = self._service.enter(1)
            self._held = self._service.intake.hold(len(body))
            (self._answer,) = self._service.desk.submit([body], self._asked.mode, self._answered)
        except Exception as error:
            self._send_problem(error)

    def _answered(self, answer: Answer) -> None:
        if self.response_complete:  # the client has left
            return
        try:
            body = self._service.answer(self._asked, [said_of(answer, 0, 1)])
        except Exception as error:
            self._send_problem(error)
        else:
            length = (b"content-length", b"%d" % len(body))
            self._send(200, [length, (b"content-type", b"application/json")], body)

    def _send_problem(self, error: Exception) -> None:
        token = request_id.set(self._identity)
        try:
            if isinstance(error, ServingError):
                response = serving_problem(error, self._service.metrics)
            else:
                log.error("unexpected error in POST %s", PREDICT, exc_info=error)
                response = internal_problem(self._service.metrics)
        finally:
            request_id.reset(token)
        self._send(response.status_code, response.raw_headers, bytes(response.body))

    def _send(self, status: int, headers: Headers, body: bytes) -> None:
        closes = not self.keep_alive or self._service.life.stopping
        connection, transport = self._connection, self._connection.transport
        lines = b"".join([b"%b: %b\r\n" % line for line in (*connection.default_headers, *headers)])
        transport.write(
            b"%b%b%bx-request-id: %b\r\n%b\r\n%b"
            % (
                STATUS_LINES[status],
                lines,
                COMMON,
                self._identity.encode(),
                b"connection: close\r\n" if closes else b"",
                body,
            )
        )
        self._end(status)
        if closes:
            transport.close()
        connection.on_response_complete()

    def _end(self, status: int) -> None:
        """Count the request and give back what it held."""
        self.response_complete = True
        self._answer = None  # it knows this exchange, too
        self._service.intake.let_go(self._held)
        self._service.leave(self._entered)
        self._service.metrics.request(PREDICT, status, time.monotonic() - self._started)
