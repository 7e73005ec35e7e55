"""Layers around the application: a proxy's path, tokens, and pages of other origins."""

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from snapensemble.serving.errors import Unauthorized
from snapensemble.serving.http.auth import Tokens
from snapensemble.serving.http.openapi import READ
from snapensemble.serving.http.problems import serving_error

# An orchestrator has no token, nor has a browser until the page has asked for one. The page is the
# same for every bundle and says nothing of this one.
OPEN = ("/health/live", "/health/ready", "/")
# Headers that pages of other origins may send, and headers of answers that they may read.
JSON_BYTES = "Inference-Header-Content-Length"
REQUEST_HEADERS = (
    "Authorization", "Content-Encoding", "Content-Type", "X-Request-ID", JSON_BYTES,
)  # fmt: skip
RESPONSE_HEADERS = ("X-Request-ID", "Retry-After", JSON_BYTES)


class Prefix:
    """Takes the path of a proxy off the paths of requests, where the proxy has left it there.

    All other layers then see the server's own routes, so that their metrics, logs and rules for
    tokens are the same as without a proxy. Requests that come without the path are left as they
    are.

    Args:
        app: answers the requests.
        prefix: begins with `/` and does not end so.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand one request on."""
        path: str = scope.get("path", "")
        if f"{path}/".startswith(f"{self._prefix}/"):
            scope = {**scope, "path": path.removeprefix(self._prefix) or "/"}
        await self._app(scope, receive, send)


class Auth:
    """Answers 401 to requests without a right token, before any of their body is read.

    Args:
        app: answers the others.
        tokens: those that open the server.
        probes: paths that platforms ask whether the server is ready, as /health/ready.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens, probes: Collection[str] = ()) -> None:
        self._app = app
        self._tokens = tokens
        self._open = frozenset([*OPEN, *probes])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or refuse it."""
        if scope["type"] == "lifespan" or self._may_pass(scope):
            await self._app(scope, receive, send)
            return
        error = Unauthorized("send a token: `Authorization: Bearer TOKEN`")
        await serving_error(Request(scope), error)(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        is_probe = scope["method"] in READ and scope["path"] in self._open
        return is_probe or self._tokens.accept(scope["headers"])


class Cors(CORSMiddleware):
    """Lets the pages of some origins send requests and read answers, without any cookies."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=REQUEST_HEADERS,
            expose_headers=RESPONSE_HEADERS,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Say what a browser may do, without a body, since only browsers read it."""
        reply = super().preflight_response(request_headers)
        allowed = reply.status_code == 200
        headers = {
            k: v for k, v in reply.headers.items() if k not in ("content-length", "content-type")
        }
        return Response(status_code=204 if allowed else 403, headers=headers)
