"""The OpenAPI document: what FastAPI reads from the routes, and what the server adds to it."""

import asyncio
import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import version
from typing import Any, TypeVar

from fastapi.openapi.utils import get_openapi
from pydantic_core import to_json
from starlette.routing import BaseRoute

from snapensemble.serving.http.problems import (
    HEAD_TOO_LARGE,
    HTTP_CODES,
    INTERNAL_ERROR,
    MALFORMED,
    MEDIA_TYPE,
    NO_MEMORY,
    PROBLEMS,
)
from snapensemble.serving.http.schemas import JsonImages, Problem

Json = dict[str, Any]
Node = TypeVar("Node")
READ = ["GET", "HEAD"]  # RFC 9110 wants both or neither
DESCRIPTION = """\
Averaged class probabilities of a snapshot ensemble.

Every error is a problem document (RFC 9457, `application/problem+json`) with a `code` that does not
change, except where a contract has words of its own, such as `{"error": TEXT}`. Unknown paths are
answered 404 `not_found`, other methods 405 `method_not_allowed`. Objects in answers may get more
members in later versions."""
BEFORE_THE_APP = (HEAD_TOO_LARGE, MALFORMED, NO_MEMORY)  # refusals of the protocol
# Problems that can come in place of any answer.
ALWAYS = [
    INTERNAL_ERROR,
    *((each.status, each.code, each.title) for each in BEFORE_THE_APP),
]
HEADERS_OF = {
    401: {"WWW-Authenticate": {"$ref": "#/components/headers/Authenticate"}},
    415: {"Accept-Encoding": {"$ref": "#/components/headers/AcceptEncoding"}},
    503: {"Retry-After": {"$ref": "#/components/headers/RetryAfter"}},
}
IDENTITY = {"schema": {"type": "string"}, "description": "the request's own, or a new one"}
HEADERS = {
    "RequestId": {**IDENTITY, "required": True},
    "RequestIdIfKnown": IDENTITY,  # a request that is not even HTTP has none
    "RetryAfter": {
        "schema": {"type": "string", "pattern": "^[1-9][0-9]*$"},
        "description": "seconds after which to try again",
        "required": True,
    },
    "Authenticate": {"schema": {"const": "Bearer"}, "required": True},
    "AcceptEncoding": {
        "schema": {"type": "string"},
        "description": "what Content-Encoding may be; present if that of the request is not read",
    },
}
REQUEST_ID = {
    "name": "X-Request-ID",
    "in": "header",
    "schema": {"type": "string"},
    "description": (
        "an id that answer, problem and log lines repeat; 1 to 128 printable ASCII characters "
        "without a space, or there will be a new one"
    ),
}


def problem_responses(
    *raises: type[Exception], worded: Mapping[str, Any] | None = None
) -> dict[int | str, Json]:
    """The `responses` of a route that can raise these errors, and those that any route can give.

    Args:
        raises: errors of the table.
        worded: by media type, how the route's contract puts an error; what the protocol refuses
            is put as a problem document all the same.
    """
    by_status: dict[int | str, list[tuple[str, str]]] = {}
    for status, code, title in sorted({*ALWAYS, *(PROBLEMS[error] for error in raises)}):
        by_status.setdefault(status, []).append((code, title))
    responses: dict[int | str, Json] = {}
    for each, codes in by_status.items():
        responses[each] = _problem(int(each), codes)
        responses[each]["content"] |= dict(worded or {})
    return responses


def _problem(status: int, codes: Iterable[tuple[str, str]]) -> Json:
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


class Document:
    """The document of a server, made and written once, when it is asked for first.

    To make it takes most of a second of processor time, and to write it what a prediction takes: as
    many clients as ask for it at once wait for the same one.

    Args:
        routes: those of the server.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._made = cache(partial(describe, routes))
        self._text: asyncio.Task[bytes] | None = None

    def __call__(self) -> Json:
        """What is in it."""
        return self._made()

    async def text(self, prefix: str) -> bytes:
        """The document as JSON.

        Args:
            prefix: the path under which a proxy shows the server; empty if unknown.
        """
        if self._text is None:
            self._text = asyncio.create_task(asyncio.to_thread(self._written))
        text = await asyncio.shield(self._text)  # whoever leaves takes it from nobody
        if not prefix:
            return text
        return to_json({"servers": [{"url": prefix}]})[:-1] + b"," + text[1:]

    def _written(self) -> bytes:
        return to_json(self())


def describe(routes: Sequence[BaseRoute]) -> Json:
    """The document of a server that has these routes, whose responses name their problems."""
    with warnings.catch_warnings():
        # All methods of a route get one id from FastAPI; HEAD gets its own below.
        warnings.filterwarnings("ignore", message="Duplicate Operation ID")
        document = get_openapi(
            title="Snapensemble",
            version=version("snapensemble"),
            description=DESCRIPTION,
            routes=routes,
        )
    for item in document["paths"].values():
        item.pop("head", None)
        for operation in item.values():
            _complete(operation)
        if "get" in item:
            item["head"] = _head_of(item["get"])
    components = document["components"]
    components["schemas"] = _schemas(components["schemas"])
    # Those of paths and methods that do not exist, so that no operation can have them.
    components["responses"] = {
        code: _problem(status, [(code, code.replace("_", " ").capitalize())])
        for status, code in HTTP_CODES.items()
    }
    for answer in components["responses"].values():  # in the words of the contract of a path
        answer["content"]["application/json"] = {"schema": {"type": "object"}}
    components["headers"] = HEADERS
    components["parameters"] = {"RequestId": REQUEST_ID}
    return document


def _complete(operation: Json) -> None:
    """Add what all operations have in common; the docstring of a handler is its one line."""
    operation["summary"] = operation.pop("description").rstrip(".")
    parameters = operation.setdefault("parameters", [])
    for parameter in parameters:
        parameter["schema"] = _never_null(parameter["schema"])
    parameters.append({"$ref": "#/components/parameters/RequestId"})
    done = operation["responses"]["200"]
    done["headers"] = {"X-Request-ID": {"$ref": "#/components/headers/RequestId"}}
    operation["responses"] = dict(sorted(operation["responses"].items()))


def _head_of(get: Json) -> Json:
    """The operation HEAD, which is GET without the body."""
    head = copy.deepcopy(get)
    head["operationId"] += "Head"
    head["summary"] = "As GET, without the body"
    for response in head["responses"].values():
        del response["content"]
    return head


def _schemas(found: Json) -> Json:
    """The schemas of the answers, and those that no route declares by a model."""
    schemas: Json = _open({**found, "Problem": Problem.model_json_schema(mode="serialization")})
    for name in ("Prediction", "Problem"):  # what has no value is left out
        properties = schemas[name]["properties"]
        schemas[name]["properties"] = {k: _never_null(v) for k, v in properties.items()}
    # A path of the machine that trained; the handler leaves it out.
    del schemas["DataRecord"]["properties"]["spec"]
    schemas["DataRecord"]["required"].remove("spec")
    schemas["JsonImages"] = JsonImages.model_json_schema()
    return dict(sorted(schemas.items()))


def _open(node: Node) -> Node:
    """Leave out titles that repeat names, and let objects have members that later versions add."""
    if isinstance(node, list):
        return [_open(item) for item in node]  # type: ignore[return-value]
    if not isinstance(node, dict):
        return node
    return {  # type: ignore[return-value]
        name: _open(value)
        for name, value in node.items()
        # A property may be called title, too; its value is no string.
        if not (name == "title" and isinstance(value, str))
        and not (name == "additionalProperties" and value is False)
    }


def _never_null(schema: Json) -> Json:
    """The schema of a member that is left out, and never null, where it has no value."""
    rest = {k: v for k, v in schema.items() if k != "title" and (k, v) != ("default", None)}
    choices = [choice for choice in rest.pop("anyOf", []) if choice != {"type": "null"}]
    (choice,) = choices or [{}]
    return {**choice, **rest}
