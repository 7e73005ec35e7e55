"""Hugging Face: POST /."""

from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from snapensemble.serving.http.app import create_app
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.settings import Settings
from tests.fakes import client
from tests.serving.http.adapters.asking import B64, IMAGE, JPEG, PNG, probabilities, same


def scores(found: list[dict[str, Any]]) -> dict[str, float]:
    assert all(each.keys() == {"label", "score"} for each in found)
    return {each["label"]: each["score"] for each in found}


@pytest.mark.parametrize(
    "body",
    [
        {"content": PNG, "headers": IMAGE},
        {"content": PNG},
        {"json": {"inputs": B64}},
        {"json": {"inputs": B64, "parameters": {}}},
        {"json": {"inputs": B64, "parameters": {"function_to_apply": "softmax", "top_k": None}}},
        {"json": {"inputs": B64, "options": {"wait_for_model": True}}},
    ],
    ids=str,
)
async def test_one_picture_gets_its_scores_in_descending_order(
    http: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    reply = await http.post("/", **body)
    assert reply.status_code == 200, reply.text
    assert same([scores(reply.json())], await probabilities(http))


async def test_several_pictures_get_lists(http: httpx.AsyncClient) -> None:
    reply = await http.post("/", json={"inputs": [B64, B64]})
    assert same([scores(each) for each in reply.json()], 2 * await probabilities(http))
    assert isinstance((await http.post("/", json={"inputs": [B64]})).json()[0], list)
    files = [("a", ("a", PNG)), ("b", ("b", JPEG))]
    reply = await http.post("/", files=files)
    assert same([scores(each) for each in reply.json()], await probabilities(http, PNG, JPEG))


async def test_top_k_says_how_many(http: httpx.AsyncClient) -> None:
    reply = await http.post("/", json={"inputs": B64, "parameters": {"top_k": 2}})
    assert len(reply.json()) == 2


@pytest.mark.parametrize("function", ["sigmoid", "none", 3])
async def test_other_functions_are_refused_with_the_reason(
    http: httpx.AsyncClient, function: Any
) -> None:
    document = {"inputs": B64, "parameters": {"function_to_apply": function}}
    reply = await http.post("/", json=document)
    assert reply.status_code == 422 and reply.json().keys() == {"error"}
    assert "expected 'softmax'" in reply.json()["error"]


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({"inputs": "?"}, 400),
        ({"text": B64}, 400),
        ({"inputs": B64, "parameters": {"top_k": -1}}, 422),
    ],
)
async def test_errors_are_texts(http: httpx.AsyncClient, document: Any, status: int) -> None:
    reply = await http.post("/", json=document)
    assert reply.status_code == status and reply.json().keys() == {"error"}


async def test_the_page_stays(http: httpx.AsyncClient) -> None:
    reply = await http.get("/")
    assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/html")


async def test_the_page_is_open_and_predictions_need_the_token(engine: Engine) -> None:
    token = "a-token-that-is-long-enough"
    async with client(create_app(Settings(tokens=SecretStr(token)), engine)) as http:
        assert (await http.get("/")).status_code == 200
        refused = await http.post("/", content=PNG, headers=IMAGE)
        assert refused.status_code == 401 and refused.json().keys() == {"error"}
        headers = {**IMAGE, "authorization": f"Bearer {token}"}
        assert (await http.post("/", content=PNG, headers=headers)).status_code == 200
