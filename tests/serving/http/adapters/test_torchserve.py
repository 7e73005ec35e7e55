"""TorchServe: /predictions and /models."""

from typing import Any

import httpx
import pytest

from tests.serving.http.adapters.asking import (
    B64,
    IMAGE,
    JPEG,
    MODEL,
    PNG,
    VERSION,
    probabilities,
    same,
)

WAYS = [f"/predictions/{MODEL}", f"/predictions/{MODEL}/{VERSION}"]


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "body",
    [{"content": PNG, "headers": IMAGE}, {"content": PNG}, {"files": {"data": ("a.png", PNG)}}],
    ids=str,
)
async def test_a_picture_gets_its_classes_in_descending_order(
    http: httpx.AsyncClient, method: str, way: str, body: dict[str, Any]
) -> None:
    reply = await http.request(method, way, **body)
    assert same([reply.json()], await probabilities(http))


async def test_several_get_a_list(http: httpx.AsyncClient) -> None:
    reply = await http.post(WAYS[0], json={"instances": [B64, B64]})
    assert same(reply.json(), 2 * await probabilities(http))
    reply = await http.post(WAYS[0], files=[("a", ("a", PNG)), ("b", ("b", JPEG))])
    assert same(reply.json(), await probabilities(http, PNG, JPEG))


async def test_models_are_listed_and_described(http: httpx.AsyncClient) -> None:
    assert (await http.get("/models")).json() == {
        "models": [{"modelName": MODEL, "modelUrl": MODEL}]
    }
    for path in (f"/models/{MODEL}", f"/models/{MODEL}/{VERSION}"):
        (found,) = (await http.get(path)).json()
        assert (found["modelName"], found["modelVersion"]) == (MODEL, VERSION)
        assert [each["status"] for each in found["workers"]] == ["READY"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind"),
    [
        ("POST", "/predictions/nope", {"content": PNG}, 404, "ModelNotFoundException"),
        ("POST", f"{WAYS[0]}/9", {"content": PNG}, 404, "ModelNotFoundException"),
        ("GET", "/models/nope", {}, 404, "ModelNotFoundException"),
        ("GET", "/predictions/", {}, 404, "ResourceNotFoundException"),
        ("DELETE", WAYS[0], {}, 405, "MethodNotAllowedException"),
        ("POST", WAYS[0], {"content": b"no picture"}, 422, "BadRequestException"),
        ("POST", WAYS[0], {"json": {"instances": 3}}, 400, "BadRequestException"),
    ],
)
async def test_errors_have_a_code_a_type_and_a_message(
    http: httpx.AsyncClient, method: str, path: str, body: Any, status: int, kind: str
) -> None:
    reply = await http.request(method, path, **body)
    assert reply.status_code == status
    assert reply.json().keys() == {"code", "type", "message"}
    assert (reply.json()["code"], reply.json()["type"]) == (status, kind)


async def test_only_predictions_are_put(http: httpx.AsyncClient) -> None:
    assert (await http.put("/predict", content=PNG, headers=IMAGE)).status_code == 405
