"""Ray Serve with the application and the configuration that the product ships."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import ray_bundle
from pydantic import ValidationError

from benchmarks.containers.load import Outcome
from benchmarks.serving.behind_ray import CLIENTS, SHIPPED, Cluster, Failed, under_load
from snapensemble.contracts.bundle import read_bundle
from snapensemble.serving.settings import Settings
from tests.factories import encoded, picture
from tests.fakes import fail_members
from tests.ray_serve.conftest import Bundles

PICTURES = [encoded(picture(seed)) for seed in range(4)]
FORM = [("image", (f"{seed}.png", data)) for seed, data in enumerate(PICTURES)]
DEPLOYMENT: Any = ray_bundle.Server  # what Ray's decorator makes of it
TENSOR = np.random.default_rng(0).integers(0, 256, (2, 3, 6, 5)).tolist()


def test_the_shipped_configuration_builds_the_shipped_application() -> None:
    (application,) = SHIPPED["applications"]
    assert application["import_path"] == "ray_bundle:build"
    arguments = ray_bundle.Arguments.model_validate(application["args"])
    assert Settings(**arguments.settings).max_wait_ms < 1000 * int(
        SHIPPED["http_options"]["request_timeout_s"]
    )
    assert [each["name"] for each in application["deployments"]] == ["Server"]


@pytest.mark.parametrize("name", ray_bundle.OF_RAY)
def test_a_setting_of_what_ray_does_is_refused(name: str) -> None:
    assert name in Settings.model_fields
    with pytest.raises(ValidationError, match=f"{name} has no effect behind Ray Serve; instead"):
        ray_bundle.Arguments(settings={name: 1})


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_wait is no setting"):
        ray_bundle.Arguments(settings={"max_wait": 1})


def test_ray_hands_on_as_much_as_a_replica_may_have_waiting() -> None:
    """Else requests wait at the proxy, where no admission predicts how long."""
    assert DEPLOYMENT.max_ongoing_requests >= Settings().max_queue


@asynccontextmanager
async def replica_of(bundle: Path | None) -> AsyncIterator[Any]:
    """A replica as Ray makes it, in this process."""
    made = DEPLOYMENT.func_or_class
    replica = made.__new__(made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_bundle, "processors", lambda: 1)
        await replica.__init__(bundle, {})
    try:
        yield replica
    finally:
        await replica.__del__()


async def test_without_an_argument_the_bundle_is_where_the_node_has_one(
    bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(bundles.first))
    async with replica_of(None) as replica:
        assert replica.service.model().engine.bundle == read_bundle(bundles.first)


async def test_no_replica_loads_or_unloads_a_model_on_a_request_that_others_do_not_get(
    bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNAPENSEMBLE_MODEL_CONTROL", "true")
    async with replica_of(bundles.first) as replica:
        name = replica.service.model().engine.bundle.name
        app = httpx.ASGITransport(replica.application)
        async with httpx.AsyncClient(transport=app, base_url="http://test") as http:
            reply = await http.post(f"/v2/repository/models/{name}/unload")
        assert reply.status_code == 403
        assert replica.service.model().engine.bundle.name == name


async def test_a_replica_is_unhealthy_while_a_member_keeps_failing(bundles: Bundles) -> None:
    async with replica_of(bundles.first) as replica:
        replica.check_health()
        engine = replica.service.model().engine
        fail_members(engine, RuntimeError("broken"))
        app = httpx.ASGITransport(replica.application)
        async with httpx.AsyncClient(transport=app, base_url="http://test") as http:
            for _ in range(20):
                await http.post("/predict", content=PICTURES[0])
        with pytest.raises(Exception, match="failed in the last"):
            replica.check_health()


def ways() -> list[dict[str, Any]]:
    """Requests of several contracts."""
    texts = [base64.b64encode(data).decode() for data in PICTURES]
    tensor = {"name": "images", "shape": [2, 3, 6, 5], "datatype": "UINT8", "data": TENSOR}
    return [
        {"url": "/predict", "content": PICTURES[0]},
        {"url": "/predict?members=true", "files": FORM},
        {"url": "/predict", "json": {"images": texts}},
        {"url": "/v1/models/test:predict", "json": {"instances": [{"b64": t} for t in texts]}},
        {"url": "/v2/models/test/infer", "json": {"inputs": [tensor]}},
    ]


@pytest.mark.parametrize("request_", ways(), ids=lambda request: request["url"])
def test_the_answers_are_those_of_the_server(
    behind_ray: httpx.Client, served: httpx.Client, request_: dict[str, Any]
) -> None:
    name = served.get("/model").json()["name"]
    request_ = request_ | {"url": request_["url"].replace("/test", f"/{name}")}
    ours, rays = served.post(**request_), behind_ray.post(**request_)
    assert ours.status_code == rays.status_code == 200, rays.text
    assert_alike(rays.json(), ours.json())


def assert_alike(found: Any, expected: Any) -> None:
    """Numbers to 1e-6, the rest as it is; identities of requests may differ."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected.keys() - {"id", "request_id"}:
            assert_alike(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_alike(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-6)
    else:
        assert found == expected


@pytest.mark.parametrize(
    "request_",
    [
        {"method": "GET", "url": "/nowhere"},
        {"method": "POST", "url": "/predict", "content": b"no picture"},
        {"method": "POST", "url": "/predict", "content": b""},
        {"method": "POST", "url": "/predict", "content": bytes(17 * 2**20)},
        {"method": "POST", "url": "/predict?top=none", "content": PICTURES[0]},
    ],
    ids=["no route", "no picture", "nothing", "too much", "bad parameter"],
)
def test_the_errors_are_those_of_the_server(
    behind_ray: httpx.Client, served: httpx.Client, request_: dict[str, Any]
) -> None:
    ours, rays = served.request(**request_), behind_ray.request(**request_)
    assert rays.status_code == ours.status_code >= 400
    assert rays.headers["content-type"] == "application/problem+json"
    assert_alike(rays.json(), ours.json())


@pytest.mark.parametrize("sent", ["an-id-of-mine", "one that cannot be used", None])
def test_an_answer_has_one_id_unless_the_servers_differs(
    behind_ray: httpx.Client, sent: str | None
) -> None:
    headers = {} if sent is None else {"X-Request-ID": sent}
    found = behind_ray.get("/model", headers=headers).headers.get_list("x-request-id")
    if sent == "one that cannot be used":  # Ray gives it back all the same
        assert len(found) == 2 and sent in found
    else:
        assert len(found) == 1 and sent in (None, found[0])


def index_of(http: httpx.Client) -> set[tuple[float, ...]]:
    """The different answers to one picture: one per bundle that is served."""
    replies = [http.post("/predict", content=PICTURES[0]).json() for _ in range(20)]
    return {tuple(reply["predictions"][0]["probabilities"]) for reply in replies}


def test_another_bundle_takes_over_under_load_without_a_lost_request(
    behind_ray: httpx.Client, cluster: Cluster, bundles: Bundles
) -> None:
    first = index_of(behind_ray)
    outcome, *_ = under_load(cluster.url, PICTURES, lambda: cluster.deploy(bundles.second))
    assert outcome.lost == {} and outcome.answered > 50
    assert first.isdisjoint(index_of(behind_ray))


def test_a_bundle_that_cannot_be_served_leaves_the_one_that_is(
    behind_ray: httpx.Client, cluster: Cluster, bundles: Bundles
) -> None:
    first, failed = index_of(behind_ray), []

    def deploy() -> None:
        with pytest.raises(Failed) as caught:
            cluster.deploy(bundles.broken)
        failed.append(str(caught.value))

    outcome, *_ = under_load(cluster.url, PICTURES, deploy)
    assert "cycle-01.onnx: sha256 is" in failed[0] and outcome.lost == {}
    assert index_of(behind_ray) == first


def test_a_replica_that_is_killed_costs_at_most_what_it_was_asked(
    behind_ray: httpx.Client, cluster: Cluster
) -> None:
    before = cluster.replicas()
    outcome, *_ = under_load(cluster.url, PICTURES, cluster.kill_a_replica)
    assert_few_are_lost(outcome)
    assert len(cluster.replicas() - before) == 1


def assert_few_are_lost(outcome: Outcome) -> None:
    """Each client has one request under way, and Ray tries none of them again."""
    assert set(outcome.lost) <= {"500", "503"} and sum(outcome.lost.values()) <= CLIENTS
    assert outcome.answered > 50
