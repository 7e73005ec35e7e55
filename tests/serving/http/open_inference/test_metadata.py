"""What the protocol's GETs say, and that nobody needs a token to learn whether the server lives."""

import json

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from snapensemble.serving.http.app import create_app
from snapensemble.serving.inference.engine import Engine
from tests.factories import CLASSES
from tests.fakes import client
from tests.serving.conftest import LIMITS
from tests.serving.http.open_inference.asking import CHW, INFER, pictures_in_json, tensors_of

MODEL = "/v2/models/insects"
VERSION = f"{MODEL}/versions/0badcafe"
TOKEN = "0123456789abcdef"


async def test_the_server_says_what_it_speaks(http: httpx.AsyncClient) -> None:
    found = (await http.get("/v2")).json()
    assert found["name"] == "snapensemble" and "binary_tensor_data" in found["extensions"]
    assert (await http.get("/v2/health/live")).json() == {"live": True}
    assert (await http.get("/v2/health/ready")).json() == {"ready": True}


@pytest.mark.parametrize("path", [MODEL, VERSION])
async def test_every_output_that_a_model_names_can_be_asked_for(
    http: httpx.AsyncClient, path: str
) -> None:
    found = (await http.get(path)).json()
    assert (found["name"], found["versions"]) == ("insects", ["0badcafe"])
    assert [each["shape"] for each in found["inputs"]] == [[-1], [-1, *CHW]]
    assert json.loads(found["properties"]["classes"]) == [*CLASSES]
    outputs = [{"name": each["name"]} for each in found["outputs"]]
    asked = {"inputs": [pictures_in_json(2)], "outputs": outputs}
    given = tensors_of(await http.post(INFER, json=asked))
    for each in found["outputs"]:
        assert given[each["name"]].shape == (2, *each["shape"][1:])


@pytest.mark.parametrize("path", [MODEL, VERSION])
async def test_a_model_is_ready_until_the_server_stops(
    app: FastAPI, http: httpx.AsyncClient, path: str
) -> None:
    assert (await http.get(f"{path}/ready")).json() == {"name": "insects", "ready": True}
    app.state.service.shutdown.stopping = True
    for each in (f"{path}/ready", "/v2/health/ready", "/v1/models/insects"):
        stopping = await http.get(each)
        assert stopping.status_code == 503 and "error" in stopping.json()
        assert stopping.headers["retry-after"]
    assert (await http.get("/v2/health/live")).status_code == 200


@pytest.mark.parametrize(
    "path", ["/v2/models/x", "/v2/models/x/ready", f"{MODEL}/versions/1", "/v2/models", "/v2/x"]
)
async def test_what_is_not_there_is_404_in_the_contract_s_words(
    http: httpx.AsyncClient, path: str
) -> None:
    found = await http.get(path)
    assert found.status_code == 404 and list(found.json()) == ["error"]


@pytest.mark.parametrize("path", ["/v2/models/x/infer", f"{MODEL}/versions/1/infer"])
async def test_an_unknown_model_is_404_before_the_body_is_read(
    http: httpx.AsyncClient, path: str
) -> None:
    found = await http.post(path, content=b"no JSON")
    assert found.status_code == 404 and "found" in found.json()["error"]


async def test_the_probes_need_no_token_and_all_else_does(engine: Engine) -> None:
    app = create_app(LIMITS.model_copy(update={"tokens": SecretStr(TOKEN)}), engine)
    async with client(app) as http:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert (await http.get(path)).status_code == 200
        for path in ("/v2", MODEL, f"{MODEL}/ready"):
            refused = await http.get(path)
            assert refused.status_code == 401 and list(refused.json()) == ["error"]
        asked = {"inputs": [pictures_in_json()]}
        assert (await http.post(INFER, json=asked)).status_code == 401
        headers = {"authorization": f"Bearer {TOKEN}"}
        assert (await http.post(INFER, json=asked, headers=headers)).status_code == 200
