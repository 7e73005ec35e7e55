"""KServe v1 and TensorFlow Serving: /v1/models."""

import base64
from typing import Any

import httpx
import pytest

from tests.factories import encoded, picture
from tests.serving.http.adapters.asking import (
    B64,
    JPEG,
    MODEL,
    PNG,
    VERSION,
    of_predictions,
    probabilities,
    same,
)

BASE = f"/v1/models/{MODEL}"
WAYS = [BASE, f"{BASE}/versions/{VERSION}", f"{BASE}/labels/stable"]
UNKNOWN = ["/v1/models/nope", f"{BASE}/versions/9", f"{BASE}/labels/canary"]
ROWS: list[Any] = [{"b64": B64}, B64, {"image_bytes": {"b64": B64}}, {"input_1": {"b64": B64}}]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("instance", ROWS)
async def test_rows_get_the_numbers_of_predict(
    http: httpx.AsyncClient, way: str, instance: Any
) -> None:
    document = {"signature_name": "serving_default", "instances": [instance]}
    reply = await http.post(f"{way}:predict", json=document)
    assert reply.json().keys() == {"predictions"}
    assert same(of_predictions(reply.json()["predictions"]), await probabilities(http))


@pytest.mark.parametrize("inputs", [{"b64": B64}, [{"b64": B64}], {"image_bytes": [{"b64": B64}]}])
async def test_columns_are_answered_by_columns(http: httpx.AsyncClient, inputs: Any) -> None:
    reply = await http.post(f"{BASE}:predict", json={"inputs": inputs})
    outputs = reply.json()["outputs"]
    (expected,) = await probabilities(http)
    assert outputs["class"] == [next(iter(expected))]
    assert outputs["probabilities"][0] == pytest.approx(
        [expected[name] for name in ("ant", "bee", "cow")], abs=1e-6
    )


async def test_columns_are_as_long_as_the_request(http: httpx.AsyncClient) -> None:
    pictures = [PNG, JPEG, encoded(picture(5))]
    texts = [base64.b64encode(each).decode() for each in pictures]
    reply = await http.post(f"{BASE}:predict", json={"inputs": [{"b64": each} for each in texts]})
    outputs = reply.json()["outputs"]
    assert {len(values) for values in outputs.values()} == {3}
    firsts = [next(iter(each)) for each in await probabilities(http, *pictures)]
    assert outputs["class"] == firsts


async def test_json_needs_no_media_type(http: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}  # curl -d
    content = f' {{"instances": [{{"b64": "{B64}"}}]}}'
    reply = await http.post(f"{BASE}:predict", content=content, headers=headers)
    assert same(of_predictions(reply.json()["predictions"]), await probabilities(http))


@pytest.mark.parametrize("way", WAYS)
async def test_examples_are_classified_in_descending_order(
    http: httpx.AsyncClient, way: str
) -> None:
    document = {"examples": [{"image/encoded": {"b64": B64}}, {"image/encoded": {"b64": B64}}]}
    reply = await http.post(f"{way}:classify", json=document)
    results = reply.json()["results"]
    assert same([dict(each) for each in results], 2 * await probabilities(http))


@pytest.mark.parametrize("way", WAYS)
async def test_a_model_says_to_both_that_it_is_ready(http: httpx.AsyncClient, way: str) -> None:
    available = {"error_code": "OK", "error_message": ""}
    assert (await http.get(way)).json() == {
        "name": MODEL,
        "ready": True,
        "model_version_status": [{"version": VERSION, "state": "AVAILABLE", "status": available}],
    }
    metadata = (await http.get(f"{way}/metadata")).json()
    assert metadata["model_spec"]["name"] == MODEL
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    sizes = [each["size"] for each in signature["outputs"]["probabilities"]["tensor_shape"]["dim"]]
    assert sizes == ["-1", "3"]


async def test_models_are_listed(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/models")).json() == {"models": [MODEL]}


@pytest.mark.parametrize("way", UNKNOWN)
async def test_what_there_is_not_is_answered_404_in_words(
    http: httpx.AsyncClient, way: str
) -> None:
    replies = [
        await http.get(way),
        await http.get(f"{way}/metadata"),
        await http.post(f"{way}:predict", json={"instances": [B64]}),
        await http.post(f"{way}:classify", json={"examples": [B64]}),
    ]
    for reply in replies:
        assert reply.status_code == 404 and reply.json().keys() == {"error"}
        assert way.rpartition("/")[2] in reply.json()["error"]


@pytest.mark.parametrize(
    ("verb", "document", "status", "message"),
    [
        ("predict", {"instances": [B64], "signature_name": "other"}, 422, "serving_default"),
        ("predict", {"examples": [B64]}, 400, "expected some of instances, inputs"),
        ("classify", {"instances": [B64]}, 400, "expected some of examples"),
        ("predict", {"inputs": {"a": [B64], "b": [B64]}}, 400, "expected one input, found a, b"),
        ("predict", {"instances": [{"a": 1, "b": 2}]}, 400, "instances.0: expected one picture"),
        ("predict", {"instances": [[[0, 1], [2, 3]]]}, 400, "found a list"),
        ("predict", {"instances": B64}, 400, "instances: expected a list, found a text"),
        ("predict", {}, 400, "found none"),
    ],
)
async def test_errors_are_texts(
    http: httpx.AsyncClient, verb: str, document: Any, status: int, message: str
) -> None:
    reply = await http.post(f"{BASE}:{verb}", json=document)
    assert reply.status_code == status and reply.json().keys() == {"error"}
    assert message in reply.json()["error"]


async def test_other_methods_and_paths_are_refused_in_words(http: httpx.AsyncClient) -> None:
    for method, path, status in (
        ("DELETE", BASE, 405),
        ("DELETE", f"{BASE}:predict", 405),
        ("POST", f"{BASE}:regress", 405),
        ("GET", "/v1/nothing", 404),
    ):
        reply = await http.request(method, path)
        assert (reply.status_code, [*reply.json()]) == (status, ["error"])
