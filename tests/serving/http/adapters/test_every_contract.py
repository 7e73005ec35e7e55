"""What holds for every contract: numbers, limits, overload, tokens, metrics, and bad input."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from snapensemble.serving.http.adapters.adapter import Routes
from snapensemble.serving.http.app import adapters_of, create_app
from snapensemble.serving.http.problems import problem_document
from snapensemble.serving.inference.engine import Engine, load_engine
from snapensemble.serving.settings import Settings
from tests.factories import make_cascade_bundle
from tests.fakes import client
from tests.serving.conftest import LIMITS
from tests.serving.http.adapters.asking import B64, IMAGE, MODEL, PNG, VERSION, Json

ENVIRONMENT = {"AIP_PREDICT_ROUTE": "/vertex:predict", "AIP_HEALTH_ROUTE": "/vertex"}


def texts(error: Json) -> str:
    assert error.keys() == {"error"}
    return str(error["error"])


def mlflow(error: Json) -> str:
    assert error.keys() == {"error_code", "message"} and error["error_code"].isupper()
    return str(error["message"])


def torchserve(error: Json) -> str:
    assert error.keys() == {"code", "type", "message"} and error["type"].endswith("Exception")
    return str(error["message"])


@dataclass(frozen=True)
class Contract:
    """One path of a contract.

    Args:
        path: that is asked.
        place: where the instances of its documents are.
        parameters: where its options are.
        words: gives the message of an error, if it is in the contract's words.
    """

    path: str
    place: str
    parameters: str
    words: Callable[[Json], str]


BASE = f"/v1/models/{MODEL}"
CONTRACTS = [
    Contract("/invocations", "instances", "params", mlflow),
    Contract("/invocations", "inputs", "params", mlflow),
    Contract("/invocations", "images", "params", mlflow),
    Contract("/invocations", "dataframe_records", "params", mlflow),
    Contract("/invocations", "dataframe_split", "params", mlflow),
    Contract("/vertex:predict", "instances", "parameters", texts),
    Contract(f"{BASE}:predict", "instances", "parameters", texts),
    Contract(f"{BASE}/versions/{VERSION}:predict", "inputs", "parameters", texts),
    Contract(f"{BASE}/labels/stable:classify", "examples", "parameters", texts),
    Contract("/", "inputs", "parameters", texts),
    Contract(f"/predictions/{MODEL}/{VERSION}", "instances", "parameters", torchserve),
]
each_contract = pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: f"{c.path} {c.place}")


def document(contract: Contract, texts: list[Any]) -> Json:
    """Instances as the contract has them."""
    if contract.place == "dataframe_split":
        return {contract.place: {"columns": ["image"], "data": [[each] for each in texts]}}
    if contract.place == "dataframe_records":
        return {contract.place: [{"image": each} for each in texts]}
    return {contract.place: texts}


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> FastAPI:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return create_app(LIMITS, engine)


def test_every_contract_is_tried_here() -> None:
    adapters = [each for each in adapters_of(ENVIRONMENT) if each.words is not problem_document]
    routes = Routes(adapters)
    found = [routes.find(each.path) for each in CONTRACTS]
    tried = [route.adapter for route in found if route is not None]
    assert len(tried) == len(CONTRACTS)
    # The Open Inference Protocol has no instances, and tests of its own.
    assert all(each in tried for each in adapters if "/v2" not in each.predictions[0])


@each_contract
async def test_wrong_instances_are_refused_in_the_contracts_words(
    http: httpx.AsyncClient, contract: Contract
) -> None:
    wrong: list[list[Any]] = [["?"], [3], [None], [[1, 2]], [{}], [{"b64": [1]}], [], [B64, "?"]]
    for instances in wrong:
        reply = await http.post(contract.path, json=document(contract, instances))
        assert reply.status_code == 400, instances
        assert contract.place in contract.words(reply.json())


@each_contract
async def test_a_picture_that_is_none_is_named_by_its_place(
    http: httpx.AsyncClient, contract: Contract
) -> None:
    reply = await http.post(contract.path, json=document(contract, [B64, "AAAA"]))
    assert reply.status_code == 422
    assert "image 1 of 2 (counted from 0)" in contract.words(reply.json())


@each_contract
@pytest.mark.parametrize("count", [5, 10_000])
async def test_the_limit_of_images_holds(
    http: httpx.AsyncClient, contract: Contract, count: int
) -> None:
    reply = await http.post(contract.path, json=document(contract, count * ["AAAA"]))
    assert reply.status_code in (400, 413)
    assert "at most" in contract.words(reply.json())


@each_contract
async def test_the_limit_of_bytes_holds(http: httpx.AsyncClient, contract: Contract) -> None:
    reply = await http.post(contract.path, json=document(contract, [100_000 * "A"]))
    assert reply.status_code == 413
    assert "at most 100,000 bytes" in contract.words(reply.json())


@each_contract
async def test_an_unknown_option_is_refused(http: httpx.AsyncClient, contract: Contract) -> None:
    asked = {**document(contract, [B64]), contract.parameters: {"colour": "red"}}
    by_query = await http.post(f"{contract.path}?colour=red", json=document(contract, [B64]))
    for reply in (by_query, await http.post(contract.path, json=asked)):
        assert reply.status_code == 422 and "colour" in contract.words(reply.json())


@each_contract
async def test_overload_is_answered_503_with_the_time_to_wait(
    http: httpx.AsyncClient, engine: Engine, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(engine.scheduler), "predicted_wait_s", LIMITS.max_wait_ms / 1000 + 2.3)
    reply = await http.post(contract.path, json=document(contract, [B64]))
    assert reply.status_code == 503 and "more work" in contract.words(reply.json())
    assert reply.headers["retry-after"] == "3"


@each_contract
async def test_requests_are_counted_by_template_and_problems_by_code(
    http: httpx.AsyncClient, app: FastAPI, contract: Contract
) -> None:
    route = Routes(adapters_of(ENVIRONMENT)).find(contract.path)
    assert route is not None
    count = app.state.metrics.registry.get_sample_value

    def seen() -> tuple[float, float]:
        labels = {"route": route.template, "code": "200"}
        answered = count("snapensemble_requests_total", labels) or 0
        failed = count("snapensemble_problems_total", {"code": "malformed_body"}) or 0
        return answered, failed

    answered, failed = seen()
    assert (await http.post(contract.path, json=document(contract, [B64]))).status_code == 200
    assert (await http.post(contract.path, json={"x": 1})).status_code == 400
    assert seen() == (answered + 1, failed + 1)


@each_contract
async def test_a_token_is_asked_for_in_the_contracts_words(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, contract: Contract
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    token = "a-token-that-is-long-enough"
    async with client(create_app(Settings(tokens=SecretStr(token)), engine)) as http:
        refused = await http.post(contract.path, json=document(contract, [B64]))
        assert refused.status_code == 401 and "token" in contract.words(refused.json())
        headers = {"authorization": f"Bearer {token}"}
        asked = await http.post(contract.path, json=document(contract, [B64]), headers=headers)
        assert asked.status_code == 200


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
NAMES = st.sampled_from(["b64", "image", "image_bytes", "content", "columns", "data", "x"])
LEAVES = SCALARS | st.just(B64) | st.binary().map(lambda data: base64.b64encode(data).decode())
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)
OPTIONS = st.dictionaries(
    st.sampled_from(
        ["top", "members", "mode", "coverage", "abstain", "explain", "deadline_ms", "top_k", "y"]
    ),
    VALUES,
    max_size=3,
)
MEDIA = st.sampled_from(
    ["application/json", "application/x-www-form-urlencoded", "application/octet-stream", "",
     "text/csv", "application/vnd.of-nobody+json", "multipart/form-data", "image/png"]
)  # fmt: skip


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory: Path = make_cascade_bundle(tmp_path_factory.mktemp("contracts") / "bundle")
    with load_engine(directory, LIMITS.limits()) as engine, pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield create_app(LIMITS, engine)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contract=st.sampled_from(CONTRACTS),
    instances=VALUES | st.lists(VALUES, max_size=3),
    parameters=OPTIONS | VALUES,
    extra=st.dictionaries(st.text(), VALUES, max_size=1),
    media_type=MEDIA,
    cut=st.integers(0, 3),
)
async def test_whatever_is_sent_is_answered_in_the_contracts_words(
    cascade: FastAPI,
    contract: Contract,
    instances: Any,
    parameters: Any,
    extra: Json,
    media_type: str,
    cut: int,
) -> None:
    asked = {**extra, contract.place: instances, contract.parameters: parameters}
    content = json.dumps(asked).encode()
    content = content[: len(content) - cut]
    async with client(cascade) as http:
        headers = {"content-type": media_type}
        reply = await http.post(contract.path, content=content, headers=headers)
    assert reply.status_code < 500 or reply.status_code == 504, reply.text
    if reply.status_code != 200:
        assert contract.words(reply.json())


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a":' * 30_000, b"{}", b"null", b"\xff", b"{"]
)
@each_contract
async def test_strange_json_is_refused(
    http: httpx.AsyncClient, contract: Contract, content: bytes
) -> None:
    headers = {"content-type": "application/json"}
    reply = await http.post(contract.path, content=content, headers=headers)
    assert reply.status_code in (400, 413) and contract.words(reply.json())


async def test_raw_pictures_are_counted_as_images(http: httpx.AsyncClient, app: FastAPI) -> None:
    for path in ("/invocations", "/vertex:predict", "/", f"/predictions/{MODEL}"):
        reply = await http.post(path, content=PNG, headers=IMAGE)
        assert reply.status_code == 200
    used = app.state.metrics.registry.get_sample_value("snapensemble_entropy_ratio_count")
    assert used == 4
