"""Vertex AI: its routes come from the environment."""

from typing import Any

import httpx
import pytest

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.serving.http.adapters import vertex
from snapensemble.serving.http.app import create_app
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.settings import Settings
from tests.fakes import client
from tests.serving.conftest import LIMITS
from tests.serving.http.adapters.asking import (
    B64,
    IMAGE,
    MODEL,
    PNG,
    of_predictions,
    probabilities,
    same,
)

HEALTH = "/v1/endpoints/12/deployedModels/34"
PREDICT = f"{HEALTH}:predict"


def on_vertex(
    monkeypatch: pytest.MonkeyPatch,
    engine: Engine,
    predict: str = PREDICT,
    health: str = HEALTH,
    settings: Settings = LIMITS,
) -> httpx.AsyncClient:
    monkeypatch.setenv("AIP_PREDICT_ROUTE", predict)
    monkeypatch.setenv("AIP_HEALTH_ROUTE", health)
    return client(create_app(settings, engine))


async def test_every_instance_gets_its_prediction_in_order(
    monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    instances = [B64, {"b64": B64}, {"image_bytes": {"b64": B64}}, {"content": B64}]
    async with on_vertex(monkeypatch, engine) as http:
        reply = await http.post(PREDICT, json={"instances": instances})
        assert reply.json().keys() == {"predictions"}
        found = of_predictions(reply.json()["predictions"])
        assert same(found, 4 * await probabilities(http))


async def test_parameters_are_options(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    document = {"instances": [B64], "parameters": {"top": 2, "members": True}}
    async with on_vertex(monkeypatch, engine) as http:
        (prediction,) = (await http.post(PREDICT, json=document)).json()["predictions"]
    assert len(prediction["top"]) == 2 and len(prediction["members"]) == 3


async def test_a_raw_prediction_is_a_picture(
    monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    async with on_vertex(monkeypatch, engine) as http:
        reply = await http.post(PREDICT, content=PNG, headers=IMAGE)
        assert same(of_predictions(reply.json()["predictions"]), await probabilities(http))


async def test_errors_are_texts(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    async with on_vertex(monkeypatch, engine) as http:
        reply = await http.post(PREDICT, json={"instances": [{"b64": 3}]})
    assert reply.status_code == 400 and "instances.0.b64" in reply.json()["error"]
    assert reply.json().keys() == {"error"}


@pytest.mark.parametrize(
    ("predict", "health"),
    [("/predict", "/health/ready"), ("/invocations", "/ping"), (f"/v1/models/{MODEL}:predict", "/"),
     ("/v1/models/other:predict", f"/v1/models/{MODEL}"), ("/", "/"), ("/metrics", "/ping"),
     (f"/predictions/{MODEL}", "/health/ready"), ("/health/ready", "/health/ready")],
)  # fmt: skip
async def test_routes_that_are_there_already_work(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, predict: str, health: str
) -> None:
    async with on_vertex(monkeypatch, engine, predict, health) as http:
        assert (await http.get(health)).status_code == 200
        reply = await http.post(predict, json={"instances": [{"b64": B64}]})
        assert reply.json().keys() == {"predictions"}
        paths = (await http.get("/openapi.json")).json()["paths"]
    identities = [op["operationId"] for item in paths.values() for op in item.values()]
    assert len(set(identities)) == len(identities)


async def test_a_route_that_it_takes_is_the_others_again_where_it_is_not(
    monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    index = "/v2/repository/index"
    async with on_vertex(monkeypatch, engine, PREDICT, index) as http:
        assert (await http.get(index)).json() == {"status": "Healthy"}
    async with on_vertex(monkeypatch, engine) as http:  # a later one of the same process
        assert [entry["name"] for entry in (await http.get(index)).json()] == [MODEL]


async def test_predict_keeps_what_it_takes_and_its_problem_documents(
    monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    async with on_vertex(monkeypatch, engine, "/predict") as http:
        reply = await http.post("/predict", json={"images": [B64]})
        assert reply.json()["model"]["name"] == MODEL
        wrong = await http.post("/predict", json={"instances": []})
    assert wrong.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("name", ["AIP_PREDICT_ROUTE", "AIP_HEALTH_ROUTE"])
@pytest.mark.parametrize(
    "value", ["predict", "/a b", "/predict?x=1", "http://host/p", "/{model}", "/a#b", "/ä"]
)
def test_a_route_that_is_none_is_refused_at_start(name: str, value: str) -> None:
    with pytest.raises(InvalidConfig, match=f"{name}: found .*expected a path"):
        vertex.adapter({name: value})


@pytest.mark.parametrize("environment", [{}, {"AIP_PREDICT_ROUTE": "", "AIP_HEALTH_ROUTE": ""}])
def test_elsewhere_there_is_no_such_contract(environment: dict[str, str]) -> None:
    assert vertex.adapter(environment) is None


async def test_the_health_route_needs_no_token_and_others_do(
    monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    token: Any = "a-token-that-is-long-enough"
    settings = Settings(tokens=token)
    async with on_vertex(monkeypatch, engine, "/predict", HEALTH, settings) as http:
        assert (await http.get(HEALTH)).status_code == 200
        assert (await http.post(HEALTH)).status_code == 401
        assert (await http.post("/predict", json={"instances": [B64]})).status_code == 401
    async with on_vertex(monkeypatch, engine, PREDICT, "/metrics", settings) as http:
        assert (await http.get("/metrics")).status_code == 401  # it is no probe of its own
