"""Answers that no application makes: to what is not HTTP, and to heads without a bound."""

from http import HTTPStatus
from typing import NamedTuple

from pydantic_core import to_json

from serving.problems import MEDIA_TYPE, problem_body

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100


class Refusal(NamedTuple):
    """One of them."""

    status: int
    code: str
    title: str
    detail: str

    @property
    def answer(self) -> bytes:
        """Head and body; the connection ends with it."""
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
    """Raised where the parser calls back, for the protocol that has called the parser."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal


HEAD_TOO_LARGE = Refusal(
    431,
    "head_too_large",
    "The request line and headers are too large",
    f"at most {MAX_HEAD_BYTES:,} bytes and {MAX_HEADERS} headers are accepted before the body",
)
NO_MEMORY = Refusal(
    503,
    "overloaded",
    "The server has more work than it can do in time",
    "requests hold all the memory that they may; try again later",
)


def malformed(detail: str) -> Refusal:
    """The refusal of what cannot be taken for a request."""
    return Refusal(400, "malformed_request", "The request is not HTTP", detail)


MALFORMED = malformed("the request line, the headers or the chunks of the body cannot be read")
