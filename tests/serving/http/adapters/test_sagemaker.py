"""SageMaker and MLflow: /invocations, /ping and the rest."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from snapensemble.serving.http.app import create_app
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.inference.session import MemberHealth
from snapensemble.serving.settings import Settings
from tests.fakes import client
from tests.serving.http.adapters.asking import (
    B64,
    IMAGE,
    JPEG,
    PNG,
    of_predictions,
    probabilities,
    same,
)

PATH = "/invocations"
RAW: list[dict[str, Any]] = [
    {"content": PNG, "headers": IMAGE},
    {"content": PNG, "headers": {"content-type": "application/octet-stream"}},
    {"content": PNG, "headers": {"content-type": "application/x-image"}},
    {"content": PNG, "headers": {"content-type": "application/x-www-form-urlencoded"}},
    {"content": PNG},
    {"files": {"image": ("a.png", PNG)}},
]
DOCUMENTS: list[dict[str, Any]] = [
    {"images": [B64]},
    {"instances": [B64]},
    {"instances": [{"b64": B64}]},
    {"instances": [{"image": B64, "id": 7}]},
    {"inputs": [B64]},
    {"inputs": B64},
    {"inputs": {"image": [B64]}},
    {"dataframe_split": {"columns": ["image"], "data": [[B64]]}},
    {"dataframe_split": {"columns": ["id", "image"], "data": [[7, B64]]}},
    {"dataframe_records": [{"image": B64}]},
    {"dataframe_records": [{"any name": B64}]},
]


@pytest.mark.parametrize("body", [*RAW, *({"json": each} for each in DOCUMENTS)], ids=str)
async def test_every_form_of_a_picture_gets_the_numbers_of_predict(
    http: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    reply = await http.post(PATH, **body)
    assert reply.status_code == 200, reply.text
    assert same(of_predictions(reply.json()["predictions"]), await probabilities(http))
    assert reply.json()["model"] == {"name": "insects", "version": "0badcafe"}


async def test_several_pictures_are_answered_in_their_order(http: httpx.AsyncClient) -> None:
    files = [("image", ("a", PNG)), ("image", ("b", JPEG))]
    for body in ({"files": files}, {"files": files[::-1]}):
        reply = await http.post(PATH, **body)  # type: ignore[arg-type]
        pictures = [picture for _, (_, picture) in body["files"]]
        expected = await probabilities(http, *pictures)
        assert same(of_predictions(reply.json()["predictions"]), expected)


async def test_params_are_options_and_win_over_the_query(http: httpx.AsyncClient) -> None:
    document = {"instances": [B64], "params": {"top": 1, "probabilities": False}}
    reply = await http.post(f"{PATH}?top=2&members=true", json=document)
    (prediction,) = reply.json()["predictions"]
    assert len(prediction["top"]) == 1 and "probabilities" not in prediction
    assert len(prediction["members"]) == 3  # the query's own still count


async def test_headers_that_it_does_not_know_change_nothing(http: httpx.AsyncClient) -> None:
    headers = {
        **IMAGE,
        "X-Amzn-SageMaker-Custom-Attributes": "trace=1",
        "X-Amzn-SageMaker-Target-Variant": "blue",
        "Accept": "application/vnd.of-nobody",
    }
    reply = await http.post(PATH, content=PNG, headers=headers)
    assert same(of_predictions(reply.json()["predictions"]), await probabilities(http))


@pytest.mark.parametrize("path", ["/ping", "/health"])
async def test_ping_is_as_health_ready(
    http: httpx.AsyncClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    reply = await http.get(path)
    assert reply.status_code == 200 and reply.json() == {"status": "Healthy"}
    with monkeypatch.context() as patch:
        patch.setattr(MemberHealth, "failing", ["cycle-01"])
        assert (await http.get(path)).status_code == 503
    app.state.service.shutdown.stopping = True
    assert (await http.get(path)).status_code == 503


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"json": {"instances": ["?"]}}, 400, "BAD_REQUEST"),
        ({"json": {"rows": [B64]}}, 400, "BAD_REQUEST"),
        ({"json": {"instances": [B64], "inputs": [B64]}}, 400, "BAD_REQUEST"),
        ({"json": {"instances": []}}, 400, "BAD_REQUEST"),
        ({"json": [B64]}, 400, "BAD_REQUEST"),
        ({"json": {"instances": [[0.5, 0.5]]}}, 400, "BAD_REQUEST"),
        ({"json": {"instances": 5 * [B64]}}, 413, "BAD_REQUEST"),
        ({"json": {"instances": [B64], "params": 3}}, 400, "BAD_REQUEST"),
        ({"json": {"instances": [B64], "params": {"tip": 1}}}, 422, "INVALID_PARAMETER_VALUE"),
        ({"content": b"a,b\n", "headers": {"content-type": "text/csv"}}, 415, "BAD_REQUEST"),
        ({"content": b"no picture"}, 422, "INVALID_PARAMETER_VALUE"),
        ({"content": b""}, 400, "BAD_REQUEST"),
    ],
    ids=str,
)
async def test_errors_are_in_mlflows_words(
    http: httpx.AsyncClient, body: dict[str, Any], status: int, code: str
) -> None:
    reply = await http.post(PATH, **body)
    assert (reply.status_code, reply.json()["error_code"]) == (status, code)
    assert reply.json().keys() == {"error_code", "message"} and len(reply.json()["message"]) > 20


async def test_a_message_names_the_place_of_what_is_wrong(http: httpx.AsyncClient) -> None:
    document = {"instances": [B64, {"image": {"b64": "?"}}]}
    reply = await http.post(PATH, json=document)
    assert "instances.1.image.b64" in reply.json()["message"]


async def test_mlflow_is_told_a_version(http: httpx.AsyncClient) -> None:
    reply = await http.get("/version")
    assert reply.status_code == 200 and reply.text[0].isdigit()


@pytest.mark.parametrize(
    ("max_body_bytes", "payload", "transforms"),
    [(16 * 2**20, 16, 6), (2**20, 1, 100), (1000, 1, 100), (2**28, 100, 1)],
)
async def test_a_transform_job_may_ask_as_much_as_the_limits_let_it(
    engine: Engine, max_body_bytes: int, payload: int, transforms: int
) -> None:
    settings = Settings(max_body_bytes=max_body_bytes, max_bytes_in_flight=2**30)
    async with client(create_app(settings, engine)) as http:
        reply = await http.get("/execution-parameters")
    assert reply.json() == {
        "MaxConcurrentTransforms": transforms,
        "BatchStrategy": "SINGLE_RECORD",
        "MaxPayloadInMB": payload,
    }
