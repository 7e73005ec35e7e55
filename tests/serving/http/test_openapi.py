"""The OpenAPI document, beside `tests.openapi`, which holds every answer of all tests to it."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from openapi_spec_validator import validate as validate_document
from pydantic import SecretStr

from snapensemble.serving.http import openapi
from snapensemble.serving.http.app import adapters_of, create_app
from snapensemble.serving.http.problems import (
    HEAD_TOO_LARGE,
    HTTP_CODES,
    INTERNAL_ERROR,
    MALFORMED,
    NO_MEMORY,
    PROBLEMS,
)
from snapensemble.serving.http.routes import asked_by
from snapensemble.serving.http.schemas import EXAMPLE, PredictOptions
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.settings import Settings
from tests.fakes import client
from tests.openapi import check_answer, close_objects, document_of, resolve, validate
from tests.serving.http.test_http import HEADERS, PNG

OPEN = (
    "/health/live", "/health/ready", "/", "/ping", "/health", "/v2/health/live", "/v2/health/ready",
)  # fmt: skip
TOKEN = "a-token-that-is-long-enough"
DOCUMENT = document_of(Settings(), guarded=True)


def answers(document: dict[str, Any]) -> list[dict[str, Any]]:
    operations = [o for item in document["paths"].values() for o in item.values()]
    return [answer for operation in operations for answer in operation["responses"].values()]


def test_the_document_is_valid() -> None:
    document = document_of(Settings(), guarded=True)
    validate_document(document)
    assert "/metrics" in document["paths"]
    elsewhere = document_of(Settings(metrics_port=9000), guarded=True)
    del document["paths"]["/metrics"]
    assert elsewhere["paths"] == document["paths"]


async def test_the_server_gives_the_document(http: httpx.AsyncClient, app: FastAPI) -> None:
    reply = await http.get("/openapi.json")
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == app.state.document()


async def test_the_document_is_made_and_written_once_however_many_ask(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Counter[str]()

    def counted(name: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(value: Any) -> Any:
            made[name] += 1
            return function(value)

        return call

    for name in ("describe", "to_json"):
        monkeypatch.setattr(openapi, name, counted(name, getattr(openapi, name)))
    async with client(create_app(Settings(), engine)) as http:
        replies = await asyncio.gather(*(http.get("/openapi.json") for _ in range(8)))
    assert len({reply.content for reply in replies}) == 1
    assert made == {"describe": 1, "to_json": 1}


async def test_every_operation_of_the_document_is_answered(
    http: httpx.AsyncClient, app: FastAPI
) -> None:
    model = app.state.service.model()
    names = {"model": model.name, "version": model.version, "label": "stable"}
    for path, item in app.state.document()["paths"].items():
        for method in item:
            reply = await http.request(method, path.format(**names))
            assert reply.status_code not in (404, 405), f"{method} {path}"


@pytest.mark.parametrize("settings", [Settings(), Settings(metrics_port=9000)])
def test_every_path_that_is_answered_is_in_the_document(engine: Engine, settings: Settings) -> None:
    paths = create_app(settings, engine).state.document()["paths"]
    adapters = adapters_of({})
    routers = [each for adapter in adapters for each in (adapter.router, adapter.probes) if each]
    of_contracts = {
        path for router in routers for each in router.routes for path, _ in asked_by(each)
    }
    predictions = {template for adapter in adapters for template in adapter.predictions}
    assert set(paths) == {
        *(() if settings.metrics_port else ("/metrics",)), "/model", "/model/{model}",
        "/health/live", "/health/ready", "/", "/docs", "/openapi.json", *of_contracts, *predictions,
    }  # fmt: skip
    for path, item in paths.items():
        assert ("post" in item) is (path in predictions or "/v2/repository" in path)
        assert set(item) <= {"get", "head", "post", "put"} and ("get" in item) is ("head" in item)


def test_operations_have_names_of_their_own_a_group_and_a_line_that_says_what_they_do() -> None:
    operations = [o for item in DOCUMENT["paths"].values() for o in item.values()]
    assert len({o["operationId"] for o in operations}) == len(operations)
    assert {o["operationId"] for o in operations} >= {"predict", "model", "modelHead"}
    for operation in operations:
        assert operation["summary"][0].isupper() or operation["summary"].startswith("200 ")
        assert len(operation["tags"]) == 1 and "description" not in operation


def test_every_problem_is_declared_somewhere() -> None:
    declared = set()
    for answer in [*answers(DOCUMENT), *DOCUMENT["components"]["responses"].values()]:
        for content in answer.get("content", {}).values():
            if "allOf" in content["schema"]:
                this = content["schema"]["allOf"][1]["properties"]
                declared |= {(this["status"]["const"], code) for code in this["code"]["enum"]}
    known = {(status, code) for status, code, _ in [*PROBLEMS.values(), INTERNAL_ERROR]}
    known |= {(p.status, p.code) for p in (HEAD_TOO_LARGE, MALFORMED, NO_MEMORY)}
    assert declared == known | set(HTTP_CODES.items())


def test_every_parameter_is_declared_with_its_bounds() -> None:
    parameters = {p.get("name"): p for p in DOCUMENT["paths"]["/predict"]["post"]["parameters"]}
    assert set(PredictOptions.model_fields) == {
        name for name, p in parameters.items() if name is not None and p["in"] == "query"
    }
    assert parameters["top"]["schema"] == {
        "type": "integer", "minimum": 0, "maximum": 1000, "default": 5,
        "description": "how many classes to name",
    }  # fmt: skip
    mode = parameters["mode"]["schema"]
    assert mode["type"] == "string" and mode["enum"] == ["full", "cascade"]
    assert not any("anyOf" in p["schema"] for p in parameters.values() if "schema" in p)
    assert parameters["deadline_ms"]["schema"]["minimum"] == 1


def test_every_body_form_is_declared() -> None:
    assert set(DOCUMENT["paths"]["/predict"]["post"]["requestBody"]["content"]) == {
        "image/*", "application/octet-stream", "multipart/form-data", "application/json",
    }  # fmt: skip


def test_every_answer_names_its_headers() -> None:
    for answer in answers(DOCUMENT):
        assert "X-Request-ID" in answer["headers"]
    predict = DOCUMENT["paths"]["/predict"]["post"]["responses"]
    assert "Retry-After" in predict["503"]["headers"]
    assert "WWW-Authenticate" in predict["401"]["headers"]


def test_the_probes_are_open_and_all_else_wants_the_token() -> None:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            is_open = method in ("get", "head") and path in OPEN
            assert ("security" not in operation) is is_open
            assert ("401" not in operation["responses"]) is is_open
    assert DOCUMENT["components"]["securitySchemes"] == {
        "bearer": {"type": "http", "scheme": "bearer"}
    }


def test_without_tokens_there_is_no_security() -> None:
    document = document_of(Settings(), guarded=False)
    assert "securitySchemes" not in document["components"]
    assert not any("security" in o for item in document["paths"].values() for o in item.values())


async def test_the_document_of_a_server_with_tokens_says_so(engine: Engine) -> None:
    app = create_app(Settings(tokens=SecretStr(TOKEN)), engine)
    async with client(app) as http:
        document = await http.get("/openapi.json", headers={"authorization": f"Bearer {TOKEN}"})
        assert "securitySchemes" in document.json()["components"]
        assert (await http.get("/openapi.json")).status_code == 401


def test_the_example_is_an_answer() -> None:
    schema = DOCUMENT["components"]["schemas"]["PredictResponse"]
    validate(close_objects(DOCUMENT), schema, EXAMPLE)


@pytest.mark.parametrize("path", ["/model", "/metrics", "/", "/docs", "/openapi.json"])
async def test_head_is_get_without_the_body(http: httpx.AsyncClient, path: str) -> None:
    get, head = await http.get(path), await http.head(path)
    assert get.status_code == head.status_code == 200
    assert get.headers["content-type"] == head.headers["content-type"]
    refused = await http.delete(path)
    assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status_code": 418}, "does not declare 418"),
        ({"json": {}}, "required property"),
        ({"json": {"live": True, "extra": 1}}, None),
        ({"text": "yes"}, "is none of"),
        ({"headers": {}, "json": {"live": True}}, "X-Request-ID is missing"),
    ],
)
def test_the_check_of_answers_notices(change: dict[str, Any], message: str | None) -> None:
    wrong = {"status_code": 200, "headers": {"x-request-id": "1"}, **change}
    if message is None:
        check_answer(DOCUMENT, "GET", "/health/live", httpx.Response(**wrong))
        return
    with pytest.raises(AssertionError, match=message):
        check_answer(DOCUMENT, "GET", "/health/live", httpx.Response(**wrong))


async def test_the_check_notices_a_member_that_is_not_declared(http: httpx.AsyncClient) -> None:
    reply = await http.post("/predict", content=PNG, headers=HEADERS)
    answer = reply.json()
    answer["predictions"][0]["mood"] = "good"
    changed = httpx.Response(200, headers={"x-request-id": "1"}, json=answer)
    with pytest.raises(AssertionError, match="mood"):
        check_answer(close_objects(DOCUMENT), "POST", "/predict", changed)


def test_references_lead_somewhere() -> None:
    assert resolve(DOCUMENT, {"$ref": "#/components/schemas/Problem"})["type"] == "object"
