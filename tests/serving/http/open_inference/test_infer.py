"""POST /v2/models/M/infer: the same numbers as /predict, in every form that the protocol has."""

from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from snapensemble.serving.inference.engine import Engine
from tests.factories import CLASSES
from tests.serving.http.open_inference.asking import (
    CHW,
    HEADER,
    INFER,
    PNGS,
    Json,
    binary,
    binary_input,
    images_in_json,
    pictures_in_json,
    pixels,
    serialized,
    tensors_of,
)

PICTURES = binary_input("pictures", "BYTES", [3], serialized(PNGS))
COLUMN = binary_input("pictures", "BYTES", [3, 1], serialized(PNGS))
IMAGES = binary_input("images", "UINT8", [3, *CHW], pixels().tobytes())
FORMS: list[dict[str, Any]] = [
    {"json": {"inputs": [pictures_in_json()]}},
    {"json": {"inputs": [images_in_json()]}},
    {"json": {"inputs": [images_in_json(data=pixels().ravel().tolist())]}},
    binary({"inputs": [PICTURES]}, serialized(PNGS)),
    binary({"inputs": [COLUMN]}, serialized(PNGS)),
    binary({"inputs": [IMAGES]}, pixels().tobytes()),
    binary(
        {"inputs": [IMAGES], "parameters": {"binary_data_output": True}, "outputs": []},
        pixels().tobytes(),
    ),
]


async def predictions(http: httpx.AsyncClient, query: str = "") -> list[Json]:
    files = [("image", (f"{place}.png", png)) for place, png in enumerate(PNGS)]
    answer = await http.post(f"/predict?members=true&{query}", files=files)
    found: list[Json] = answer.json()["predictions"]
    return found


async def test_the_numbers_are_those_of_predict_in_every_form(http: httpx.AsyncClient) -> None:
    expected = await predictions(http)
    probs_NK = [each["probabilities"] for each in expected]
    for form in FORMS:
        found = tensors_of(await http.post(INFER, **form))
        assert list(found) == ["probabilities", "class"]
        np.testing.assert_allclose(found["probabilities"], probs_NK, atol=1e-6, rtol=0)
        assert found["class"].tolist() == [each["class"] for each in expected]


@pytest.mark.parametrize("is_binary", [False, True])
async def test_what_is_asked_by_name_is_given_in_that_order(
    http: httpx.AsyncClient, is_binary: bool
) -> None:
    names = ["disagreement_nats", "member_probabilities", "entropy_nats", "members_used", "class"]
    outputs = [{"name": name, "parameters": {"binary_data": is_binary}} for name in names]
    reply = await http.post(INFER, json={"inputs": [pictures_in_json()], "outputs": outputs})
    found, expected = tensors_of(reply), await predictions(http)
    assert list(found) == names
    assert (HEADER in reply.headers) == is_binary
    members_NMK = [[m["probabilities"] for m in each["members"]] for each in expected]
    np.testing.assert_allclose(found["member_probabilities"], members_NMK, atol=1e-6)
    for name in ("entropy_nats", "disagreement_nats"):
        values_N = [each["uncertainty"][name] for each in expected]
        np.testing.assert_allclose(found[name], values_N, atol=1e-6)
    assert found["members_used"].tolist() == [3, 3, 3]


async def test_one_picture_may_be_the_whole_body(http: httpx.AsyncClient) -> None:
    reply = await http.post(INFER, content=PNGS[0], headers={HEADER: "0"})
    found, (expected, *_) = tensors_of(reply), await predictions(http)
    np.testing.assert_allclose(found["probabilities"], [expected["probabilities"]], atol=1e-6)
    assert reply.headers["content-type"] == "application/octet-stream"


async def test_one_output_may_be_binary_beside_another(http: httpx.AsyncClient) -> None:
    outputs = [{"name": "probabilities", "parameters": {"binary_data": False}}, {"name": "class"}]
    parameters = {"binary_data_output": True}
    asked = {"inputs": [pictures_in_json()], "outputs": outputs, "parameters": parameters}
    reply = await http.post(INFER, json=asked)
    size = int(reply.headers[HEADER])
    assert b'"data":[' in reply.content[:size] and b"cow" in reply.content[size:]
    assert tensors_of(reply)["probabilities"].shape == (3, len(CLASSES))


async def test_the_id_is_repeated_and_the_version_named(http: httpx.AsyncClient) -> None:
    asked = {"inputs": [pictures_in_json()]}
    named = (await http.post(INFER, json={**asked, "id": "日本-1"})).json()
    assert (named["id"], named["model_name"], named["model_version"]) == (
        "日本-1", "insects", "0badcafe",
    )  # fmt: skip
    path = "/v2/models/insects/versions/0badcafe/infer"
    assert "id" not in (await http.post(path, json=asked)).json()


async def test_classification_names_the_likeliest_classes_as_triton_does(
    http: httpx.AsyncClient,
) -> None:
    outputs = [{"name": "probabilities", "parameters": {"classification": 2}}]
    asked = {"inputs": [pictures_in_json()], "outputs": outputs}
    found, expected = tensors_of(await http.post(INFER, json=asked)), await predictions(http)
    assert found["probabilities"].tolist() == [
        [f"{top['probability']:.6f}:{top['index']}:{top['class']}" for top in each["top"][:2]]
        for each in expected
    ]


async def test_a_cascade_gives_members_that_were_not_asked_rows_of_zeros(
    http: httpx.AsyncClient,
) -> None:
    names = ("member_probabilities", "members_used", "probabilities")
    outputs, parameters = [{"name": name} for name in names], {"mode": "cascade"}
    asked = {"inputs": [images_in_json()], "outputs": outputs, "parameters": parameters}
    found = tensors_of(await http.post(INFER, json=asked))
    expected = await predictions(http, "mode=cascade")
    assert found["members_used"].tolist() == [each["members_used"] for each in expected]
    assert 0 < min(found["members_used"]) < 3
    sums_NM = found["member_probabilities"].sum(axis=-1)
    for sums_M, used in zip(sums_NM, found["members_used"], strict=True):
        np.testing.assert_allclose(sums_M, [1] * used + [0] * (3 - used), atol=1e-6)
    np.testing.assert_allclose(
        found["probabilities"], [each["probabilities"] for each in expected], atol=1e-6
    )


async def test_a_parameter_adds_its_output_as_predict_does(http: httpx.AsyncClient) -> None:
    asked = {"inputs": [pictures_in_json()], "parameters": {"coverage": 0.9, "abstain": 0.5}}
    found = tensors_of(await http.post(INFER, json=asked))
    expected = await predictions(http, "coverage=0.9&abstain=0.5")
    assert list(found) == ["probabilities", "class", "prediction_set", "abstain"]
    for in_set_K, each in zip(found["prediction_set"], expected, strict=True):
        classes = {CLASSES[k] for k in np.flatnonzero(in_set_K)}
        assert classes == set(each["prediction_set"]["classes"])
    assert found["abstain"].tolist() == [each["abstain"] for each in expected]


BAD_PARAMETERS: list[tuple[Json, str]] = [
    ({"mode": "some"}, "mode: "),
    ({"mode": {}}, "mode: "),
    ({"coverage": 0.123}, "coverage: got 0.123"),
    ({"coverage": True}, "coverage: found true or false"),
    ({"deadline_ms": 0}, "deadline_ms: "),
    ({"deadline_ms": "soon"}, "deadline_ms: "),
    ({"timeout": -1}, "timeout: expected microseconds"),
    ({"timeout": 10**20}, "deadline_ms: "),
    ({"timeout": 10**400}, "deadline_ms: "),
    ({"explain": "true"}, "found 'explain', expected mode, coverage"),
    ({"top": 3}, "found 'top', expected mode, coverage"),
]


async def test_a_parameter_that_is_not_right_is_named(http: httpx.AsyncClient) -> None:
    for parameters, message in BAD_PARAMETERS:
        for path in (INFER, f"{INFER}?mode=full"):
            asked = {"inputs": [pictures_in_json()], "parameters": parameters}
            reply = await http.post(path, json=asked)
            assert reply.status_code == 422, parameters
            assert message in reply.json()["error"]


async def test_a_query_may_say_what_parameters_say(http: httpx.AsyncClient) -> None:
    asked = {"inputs": [images_in_json()], "outputs": [{"name": "members_used"}]}
    found = tensors_of(await http.post(f"{INFER}?mode=cascade", json=asked))
    assert min(found["members_used"]) < 3
    refused = await http.post(f"{INFER}?explain=true", json=asked)
    assert refused.status_code == 422 and "explain" in refused.json()["error"]


async def test_requests_are_counted_under_the_template_of_their_path(
    app: FastAPI, http: httpx.AsyncClient, engine: Engine
) -> None:
    await http.post(INFER, json={"inputs": [pictures_in_json()]})
    await http.post("/v2/models/other/infer", json={})
    page = app.state.metrics.page().decode()
    template = '/v2/models/{model}/infer"'
    assert page.count(f'_requests_total{{code="200",route="{template}') or template in page
    assert "other" not in page
    assert engine.admission.memory.held == 0
