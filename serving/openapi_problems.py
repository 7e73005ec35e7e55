"""The responses of the OpenAPI document that are problem documents."""

from collections.abc import Iterable
from typing import Any

from snapensemble.serving.http.problems import (
    HEAD_TOO_LARGE,
    HTTP_CODES,
    INTERNAL_ERROR,
    MALFORMED,
    MEDIA_TYPE,
    NO_MEMORY,
    PROBLEMS,
)

BEFORE_THE_APP = (HEAD_TOO_LARGE, MALFORMED, NO_MEMORY)
# Each of these can come instead of any answer.
ALWAYS = [
    INTERNAL_ERROR,
    *((each.status, each.code, each.title) for each in BEFORE_THE_APP),
]
HEADERS_OF = {
    401: {"WWW-Authenticate": {"$ref": "#/components/headers/Authenticate"}},
    503: {"Retry-After": {"$ref": "#/components/headers/RetryAfter"}},
}


def problem_responses(raises: Iterable[type[Exception]]) -> dict[str, Any]:
    """Status to response, for an operation that can raise these errors, in order of the status."""
    by_status: dict[int, list[tuple[str, str]]] = {}
    for status, code, title in sorted({*ALWAYS, *(PROBLEMS[error] for error in raises)}):
        by_status.setdefault(status, []).append((code, title))
    return {str(status): _response(status, codes) for status, codes in by_status.items()}


def unrouted_responses() -> dict[str, Any]:
    """What paths and methods that are not there answer; no operation can name them."""
    return {
        code: _response(status, [(code, code.replace("_", " ").capitalize())])
        for status, code in HTTP_CODES.items()
    }


def _response(status: int, codes: list[tuple[str, str]]) -> dict[str, Any]:
    names = [code for code, _ in codes]
    this = {"properties": {"status": {"const": status}, "code": {"enum": names}}}
    schema = {"allOf": [{"$ref": "#/components/schemas/Problem"}, this]}
    known = "IfKnown" if status in [each.status for each in BEFORE_THE_APP] else ""
    return {
        "description": "; ".join(f"{title} (`{code}`)" for code, title in codes),
        "headers": {
            "X-Request-ID": {"$ref": f"#/components/headers/RequestId{known}"},
            **HEADERS_OF.get(status, {}),
        },
        "content": {MEDIA_TYPE: {"schema": schema}},
    }
