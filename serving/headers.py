"""Headers that every answer carries: the request's id, and what browsers must not do with it."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.logs import id_of_request, request_id

# Where a handler has not said otherwise. An answer is about one picture and of one moment.
DEFAULTS = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}


class AnswerHeaders:
    """Knows the request's id from here on, and adds the headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity = id_of_request(scope["headers"])

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                said = {name for name, _ in headers}
                headers += [pair for pair in DEFAULTS.items() if pair[0] not in said]
                message["headers"] = [*headers, (b"x-request-id", identity.encode())]
            await send(message)

        token = request_id.set(identity)
        try:
            await self._app(scope, receive, with_headers)
        finally:
            request_id.reset(token)
