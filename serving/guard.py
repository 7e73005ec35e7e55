"""The guard at the door: whoever shows no token gets nothing but the probes."""

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.errors import Unauthorized
from serving.problems import serving_error
from serving.tokens import Tokens

PROBES = ("/health/live", "/health/ready")  # an orchestrator has no token


class Guard:
    """Answers 401 to requests without a right token, before any of their body is read."""

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or refuse it."""
        if scope["type"] == "lifespan" or self._may_pass(scope):
            await self._app(scope, receive, send)
            return
        error = Unauthorized("send a token: `Authorization: Bearer TOKEN`")
        await serving_error(Request(scope), error)(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        return scope["path"] in PROBES or self._tokens.accept(scope["headers"])
