"""Pages of other origins: who of them may ask, in the words of the Fetch standard."""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

ASKED = ("Authorization", "Content-Type", "X-Request-ID")
ANSWERED = ("X-Request-ID", "Retry-After")


class Cors(CORSMiddleware):
    """Lets the pages of some origins ask and read the answers. No cookies: there are none."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=ASKED,
            expose_headers=ANSWERED,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """What a browser may do: without a body, since only browsers read it."""
        reply = super().preflight_response(request_headers)
        allowed = reply.status_code == 200
        headers = {
            k: v for k, v in reply.headers.items() if k not in ("content-length", "content-type")
        }
        return Response(status_code=204 if allowed else 403, headers=headers)
