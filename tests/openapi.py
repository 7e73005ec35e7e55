"""The OpenAPI document of a server, and whether an answer is one that it declares."""

import copy
import os
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from fastapi import FastAPI
from openapi_schema_validator import OAS31Validator

from snapensemble.serving.http.adapters.adapter import pattern_of
from snapensemble.serving.http.app import adapters_of
from snapensemble.serving.http.openapi import describe
from snapensemble.serving.http.pages import ASSETS
from snapensemble.serving.http.routes import router_of
from snapensemble.serving.settings import Settings

Json = dict[str, Any]
_documents: dict[tuple[object, ...], Json] = {}
LEFT = 499  # the client has left, so nobody reads this answer


def document_of(settings: Settings, *, guarded: bool) -> Json:
    """The document of a server with these settings."""
    return describe(router_of(settings, adapters_of({}), guarded=guarded).router.routes)


def document_of_app(app: FastAPI) -> Json:
    """The document of an app, with closed objects; it is made once for all apps that are alike."""
    settings: Settings = app.state.service.settings
    alike = (
        settings.max_images_per_request, settings.max_body_bytes, settings.metrics_port is None,
        settings.tokens is None and settings.tokens_file is None,
        tuple(sorted(each for each in os.environ.items() if each[0].startswith("AIP_"))),
    )  # fmt: skip
    if alike not in _documents:
        _documents[alike] = close_objects(app.state.document())
    return _documents[alike]


def checks(closed: Json) -> Callable[[httpx.Response], Awaitable[None]]:
    """A hook for an httpx client that refuses answers which the document does not declare."""

    async def check(response: httpx.Response) -> None:
        await response.aread()
        request = response.request
        is_asset = request.url.path.startswith(f"/{ASSETS}/")  # part of a page, not of the API
        if request.method != "OPTIONS" and response.status_code != LEFT and not is_asset:
            check_answer(closed, request.method, request.url.path, response)

    return check


def check_answer(document: Json, method: str, path: str, response: httpx.Response) -> None:
    """Refuse a status, code, header, media type or body that is not declared."""
    declared = declared_answer(document, method, path, response.status_code)
    content = declared.get("content", {})
    media_type = response.headers.get("content-type", "").partition(";")[0]
    for name, header in declared["headers"].items():
        header = resolve(document, header)
        if name in response.headers:
            validate(document, header["schema"], response.headers[name])
        else:
            assert not header.get("required"), f"{name} is missing"
    if method == "HEAD":
        return
    assert media_type in content, f"{media_type!r} is none of {list(content)}"
    is_json = media_type.endswith("json")
    validate(document, content[media_type]["schema"], response.json() if is_json else response.text)


def declared_answer(document: Json, method: str, path: str, status: int) -> Json:
    """The response object for an answer."""
    operation = item_of(document, path).get(method.lower())
    if operation is None and status in (404, 405):
        name = {404: "not_found", 405: "method_not_allowed"}[status]
        answers: dict[str, Json] = document["components"]["responses"]
        return answers[name]
    if operation is None:  # authentication and the protocol do not look at the path
        operation = document["paths"]["/model"]["get"]
    declared: dict[str, Json] = operation["responses"]
    assert str(status) in declared, f"{method} {path} does not declare {status}"
    answer = declared[str(status)]
    if method.lower() not in item_of(document, path):  # in the words of the path's contract
        words = {"application/json": {"schema": {"type": "object"}}}
        answer = {**answer, "content": {**answer["content"], **words}}
    return answer


def item_of(document: Json, path: str) -> Json:
    """What the document says of a path, by itself or by a template; nothing if it is unknown."""
    items: dict[str, Json] = document["paths"]
    if path in items:
        return items[path]
    found = (item for template, item in items.items() if pattern_of(template).fullmatch(path))
    return next(found, {})


def validate(document: Json, schema: Json, value: Any) -> None:
    """Refuse a value that a schema of the document does not describe."""
    whole = {**schema, "components": document["components"]}
    error = next(OAS31Validator(whole).iter_errors(value), None)
    assert error is None, f"{error.json_path}: {error.message}"


def resolve(document: Json, node: Json) -> Json:
    """What a reference leads to."""
    if "$ref" not in node:
        return node
    found = document
    for name in node["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def close_objects(document: Json) -> Json:
    """The document with objects that have no fields but those that it names.

    Clients are told that more may come; the server that it describes has to name what it sends.
    """
    closed = copy.deepcopy(document)
    for schema in closed["components"]["schemas"].values():
        if schema.get("type") == "object":
            schema["additionalProperties"] = False
    return closed
