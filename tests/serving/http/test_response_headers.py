import httpx
import pytest
from fastapi import FastAPI

from snapensemble.serving.inference.engine import Engine
from tests.factories import encoded, picture
from tests.serving.http.test_http import is_problem

PNG = encoded(picture(1))


@pytest.mark.parametrize(
    "path", ["/", "/model", "/health/live", "/metrics", "/openapi.json", "/nope"]
)
async def test_every_answer_says_what_browsers_must_not_do(
    http: httpx.AsyncClient, path: str
) -> None:
    headers = (await http.get(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert len(headers.get_list("content-security-policy")) == 1


async def test_the_id_of_a_request_comes_back(http: httpx.AsyncClient) -> None:
    asked = {"x-request-id": "shop-17/a:b"}
    reply = await http.post("/predict", content=PNG, headers=asked)
    assert reply.status_code == 200 and reply.headers["x-request-id"] == "shop-17/a:b"
    refused = await http.post("/predict", content=b"text", headers=asked)
    is_problem(refused, 422, "invalid_image")
    assert refused.headers["x-request-id"] == refused.json()["request_id"] == "shop-17/a:b"


@pytest.mark.parametrize("given", [b"", b"two words", b"x" * 129, b"\x1b[31mred", "ü".encode()])
async def test_an_id_that_could_spoil_a_log_is_replaced(
    http: httpx.AsyncClient, given: bytes
) -> None:
    reply = await http.get("/model", headers=[(b"x-request-id", given)])
    assert reply.headers["x-request-id"].isalnum() and len(reply.headers["x-request-id"]) == 32


async def test_each_request_without_an_id_gets_its_own(http: httpx.AsyncClient) -> None:
    ids = {(await http.get("/health/live")).headers["x-request-id"] for _ in range(10)}
    assert len(ids) == 10


async def test_a_defect_has_the_id_and_the_headers_too(
    http: httpx.AsyncClient, engine: Engine, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.scheduler, "submit", None)
    reply = await http.post("/predict", content=PNG, headers={"x-request-id": "abc"})
    is_problem(reply, 500, "internal_error")
    assert reply.json()["request_id"] == reply.headers["x-request-id"] == "abc"
    assert reply.headers["x-content-type-options"] == "nosniff"
