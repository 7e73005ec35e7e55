"""One request and its answer: counted, logged, traced and given its headers in this one place."""

import asyncio
import logging
import time
from collections.abc import Collection
from contextlib import ExitStack

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from snapensemble.serving.errors import Stopping
from snapensemble.serving.http.problems import internal_problem, serving_problem
from snapensemble.serving.http.scope import is_crowded, noted, refused_status
from snapensemble.serving.shutdown import Life
from snapensemble.serving.telemetry.logs import id_of_request, log_access, request_id
from snapensemble.serving.telemetry.metrics import Metrics
from snapensemble.serving.telemetry.tracing import Traces

NO_ANSWER = 499  # it was never begun: the client has left, or the server had to stop
# Where a handler has not said otherwise. An answer is about one picture and of one moment.
DEFAULTS = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}
log = logging.getLogger("snapensemble")


class Exchanges:
    """The outermost layer: every request passes it once.

    Plain ASGI: the wrapper classes of the framework hide from a handler that its client left.

    Args:
        app: answers.
        routes: the paths that there are. Others share one label, or anyone could make as many
            labels as they like.
        metrics: counts.
        life: ends connections once the server stops.
        traces: makes spans, if there are any.
        access_log: whether to write a line for each request.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Collection[str],
        metrics: Metrics,
        life: Life,
        traces: Traces | None = None,
        *,
        access_log: bool = False,
    ) -> None:
        self._app = app
        self.routes = routes
        self.metrics = metrics
        self.life = life
        self.traces = traces
        self.access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with Exchange(self, scope, send) as exchange:
            try:
                await self._app(scope, receive, exchange.send)
            except asyncio.CancelledError:
                if exchange.status or not self.life.stopping:
                    raise
                late = Stopping("the server had to end before the request was answered")
                await serving_problem(late, self.metrics)(scope, receive, exchange.send)
            except Exception:  # a defect: logged here, and the client learns no more than that
                log.exception("unexpected error in %s %s", scope["method"], exchange.route)
                if not exchange.status:
                    problem = internal_problem(self.metrics)
                    await problem(scope, receive, exchange.send)


class Exchange:
    """One of them: a context manager around all that happens to the request.

    Args:
        all_of_them: what it has in common with others.
        scope: of the request.
        send: to the client.
    """

    def __init__(self, all_of_them: Exchanges, scope: Scope, send: Send) -> None:
        self.route = scope["path"] if scope["path"] in all_of_them.routes else "other"
        self.status = 0  # none yet
        self._all = all_of_them
        self._scope = scope
        self._send = send
        self._identity = id_of_request(scope["headers"])

    def __enter__(self) -> "Exchange":
        self._started = time.monotonic()
        self._token = request_id.set(self._identity)
        if self._all.traces is not None:
            self._stack = ExitStack()
            span = self._all.traces.request(self._scope, self._all.routes)
            self._span = self._stack.enter_context(span)
        return self

    def __exit__(self, *error: object) -> None:
        status = self.status or refused_status(self._scope) or NO_ANSWER
        seconds = time.monotonic() - self._started
        self._all.metrics.request(self.route, status, seconds)
        if self._all.access_log:
            log_access(
                method=self._scope["method"],
                route=self.route,
                status=status,
                milliseconds=round(seconds * 1000, 3),
                **noted(self._scope),
            )
        if self._all.traces is not None:
            self._span.status = self.status
            self._stack.close()
        request_id.reset(self._token)

    async def send(self, message: Message) -> None:
        """Pass a message on, with what every head has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            said = {name for name, _ in headers}
            headers += [pair for pair in DEFAULTS.items() if pair[0] not in said]
            headers.append((b"x-request-id", self._identity.encode()))
            if (self._all.life.stopping or is_crowded(self._scope)) and b"connection" not in said:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)
