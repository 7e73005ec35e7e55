"""Problem documents (RFC 9457): one table says what each error is in HTTP.

The protocol refuses by itself what is not HTTP, and heads without a bound; no application sees
them.
"""

import logging
import math
from collections.abc import Callable
from contextvars import ContextVar
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import FastAPI
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from snapensemble.contracts.errors import ImageTooCostly, ImageTooLarge, InvalidImage
from snapensemble.contracts.process import printable
from snapensemble.serving.errors import (
    BadImageInRequest,
    BodyTimeout,
    BodyTooLarge,
    ControlDisabled,
    DeadlineExceeded,
    EmptyBody,
    InferenceFailed,
    InvalidParameter,
    InvalidTensor,
    LoadFailed,
    MalformedBody,
    MemberFailing,
    NotExplainable,
    Overloaded,
    ServingError,
    Stopping,
    TooManyImages,
    Unauthorized,
    UnknownModel,
    UnsupportedEncoding,
    UnsupportedMediaType,
    WorkersLate,
)
from snapensemble.serving.telemetry.logs import request_id
from snapensemble.serving.telemetry.metrics import Metrics

# Error: status, code, title. Clients rely on the codes.
PROBLEMS: dict[type[Exception], tuple[int, str, str]] = {
    EmptyBody: (400, "empty_body", "There is no image in the request"),
    MalformedBody: (400, "malformed_body", "The body is not what its media type says"),
    InvalidTensor: (400, "invalid_tensor", "The tensors are not those of the model"),
    Unauthorized: (401, "unauthorized", "A token is needed"),
    ControlDisabled: (403, "control_disabled", "Models are not loaded on request here"),
    UnknownModel: (404, "unknown_model", "There is no such model"),
    BodyTimeout: (408, "body_timeout", "The body arrived too slowly"),
    BodyTooLarge: (413, "body_too_large", "The body is too large"),
    TooManyImages: (413, "too_many_images", "Too many images in one request"),
    ImageTooLarge: (413, "image_too_large", "The image has too many pixels"),
    UnsupportedMediaType: (
        415,
        "unsupported_media_type",
        "The media type or encoding is not read",
    ),
    ImageTooCostly: (422, "image_too_costly", "The image is too costly to decode"),
    InvalidImage: (422, "invalid_image", "The image cannot be read"),
    LoadFailed: (422, "load_failed", "The model cannot be served"),
    InvalidParameter: (422, "invalid_parameter", "A parameter is not right"),
    NotExplainable: (422, "not_explainable", "The model gives no class activation maps"),
    InferenceFailed: (500, "inference_failed", "The ensemble could not answer"),
    Overloaded: (503, "overloaded", "The server has more work than it can do in time"),
    MemberFailing: (503, "member_failing", "A member fails again and again"),
    Stopping: (503, "stopping", "The server is shutting down"),
    DeadlineExceeded: (504, "deadline_exceeded", "The deadline passed"),
    WorkersLate: (504, "workers_late", "Not all workers have followed yet"),
}
# The status of the table -> that of gRPC, where a request came that way. What is worth another try
# is UNAVAILABLE; what is not, whatever is wrong with it, is INVALID_ARGUMENT.
GRPC_STATUS: dict[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
INTERNAL_ERROR = (500, "internal_error", "The server has a defect")
HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}
MAX_DETAIL = 500  # characters, since what a client sent may be in it
MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100
MAX_TARGET_BYTES = 8 * 1024  # of path and query
MEDIA_TYPE = "application/problem+json"
log = logging.getLogger("snapensemble")
Words = Callable[[dict[str, Any]], tuple[str, dict[str, Any]]]


def problem_document(document: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The media type and the content of an error that is put as a problem document."""
    return MEDIA_TYPE, document


# How the contract of the request that is being answered puts an error.
words_here: ContextVar[Words] = ContextVar("words_here", default=problem_document)


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error of the app with a problem document."""
    app.add_exception_handler(ServingError, serving_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(
        Exception, lambda request, _: internal_problem(request.app.state.metrics)
    )


def problem(
    metrics: Metrics,
    status: int,
    code: str,
    title: str,
    detail: str,
    headers: dict[str, str] | None = None,
) -> Response:
    """The answer with an error, in the words of the request's contract; its code is counted."""
    metrics.problems.labels(code).inc()
    body = problem_body(status, code, title, detail)
    if (identity := request_id.get()) is not None:
        body["request_id"] = identity
    media_type, content = words_here.get()(body)
    return Response(to_json(content), status, headers, media_type=media_type)


def problem_body(status: int, code: str, title: str, detail: str) -> dict[str, Any]:
    """The members of a problem document, whose detail any client can show in one line."""
    detail = printable(detail[: MAX_DETAIL + 1])
    return {
        "type": f"urn:snapensemble:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail if len(detail) <= MAX_DETAIL else f"{detail[:MAX_DETAIL]}…",
        "code": code,
    }


def serving_error(request: Request, error: Exception) -> Response:
    """The problem document of a request's error."""
    return serving_problem(error, request.app.state.metrics)


def entry_of(error: Exception) -> tuple[int, str, str]:
    """What the table has of an error, whose cause is logged if it is the server's."""
    if isinstance(error, InferenceFailed):
        log.error("inference failed", exc_info=error.__cause__ or error)
    reason = error.reason if isinstance(error, BadImageInRequest) else error
    return next(PROBLEMS[c] for c in type(reason).__mro__ if c in PROBLEMS)


def retry_after_s(error: Exception) -> int:
    """Whole seconds after which to try again, for an error of status 503."""
    return max(1, math.ceil(error.retry_after_s if isinstance(error, Overloaded) else 1.0))


def serving_problem(error: Exception, metrics: Metrics) -> Response:
    """The problem document of an error that the table has."""
    status, code, title = entry_of(error)
    headers: dict[str, str] = {}
    if status == 503:
        headers["retry-after"] = str(retry_after_s(error))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, UnsupportedEncoding):  # RFC 7694: in these refusals, and in no others
        headers["accept-encoding"] = ", ".join(error.accepted)
    if isinstance(error, BodyTooLarge | BodyTimeout | TooManyImages | UnsupportedMediaType):
        # The rest of the body may still be on its way, and nobody will read it.
        headers["connection"] = "close"
    return problem(metrics, status, code, title, str(error), headers)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = HTTP_CODES.get(error.status_code, "http_error")
    detail = f"{request.method} {request.url.path}: {error.detail}"
    headers = dict(error.headers or {})
    metrics = request.app.state.metrics
    return problem(metrics, error.status_code, code, error.detail, detail, headers)


def internal_problem(metrics: Metrics) -> Response:
    """The problem document of a defect, of which clients learn no more than that there is one."""
    return problem(metrics, *INTERNAL_ERROR, "the server's log says more")


class Refusal(NamedTuple):
    """An answer that the protocol makes in place of the application."""

    status: int
    code: str
    title: str
    detail: str

    @property
    def answer(self) -> bytes:
        """The bytes of the answer, head and body; the connection ends with it."""
        body = to_json(problem_body(*self))
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            "connection: close",
            f"content-type: {MEDIA_TYPE}",
            f"content-length: {len(body)}",
            *(["retry-after: 1"] if self.status == HTTPStatus.SERVICE_UNAVAILABLE else []),
            "",
            "",
        ]
        return "\r\n".join(lines).encode() + body


class Refused(Exception):
    """A callback of the parser refuses the request; the protocol, which called it, answers."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal


HEAD_TOO_LARGE = Refusal(
    431,
    "head_too_large",
    "The request line and headers are too large",
    f"at most {MAX_HEAD_BYTES:,} bytes and {MAX_HEADERS} headers are accepted before the body, "
    f"and {MAX_TARGET_BYTES:,} bytes of path and query",
)
NO_MEMORY = Refusal(
    503,
    "overloaded",
    "The server has more work than it can do in time",
    "requests hold all the memory that they may; try again later",
)


def malformed(detail: str) -> Refusal:
    """Make the refusal of bytes that cannot be taken for a request."""
    return Refusal(400, "malformed_request", "The request is not HTTP", detail)


MALFORMED = malformed("the request line, the headers or the chunks of the body cannot be read")
