"""Cascade mode and prediction sets over HTTP, against the reference in contracts.

Shapes: M members, d members asked, B images, K classes.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from snapensemble.contracts.bundle import BundleManifest, read_bundle
from snapensemble.contracts.cascade import margin, run_cascade
from snapensemble.contracts.metrics import disagreement, entropy, mean_probabilities
from snapensemble.contracts.prediction_sets import SetQuantile, prediction_sets
from snapensemble.serving.errors import InvalidParameter
from snapensemble.serving.http.app import create_app
from snapensemble.serving.http.responses import Promised, prediction
from snapensemble.serving.http.schemas import PredictOptions, PredictResponse
from snapensemble.serving.inference.engine import Engine, load_engine
from snapensemble.serving.inference.request import MemberOutputs
from snapensemble.serving.settings import Settings
from snapensemble.serving.telemetry.metrics import Metrics
from tests.factories import (
    CLASSES,
    calibration_record,
    cascade_record,
    encoded,
    make_bundle,
    picture,
    set_quantiles,
)
from tests.fakes import GatedMember, LeavingClient, client
from tests.serving.http.test_http import exact_MK, is_problem

WEIGHTS_M = [0.5, 0.3, 0.2]
TEMPERATURES = (1.5, 0.8)
PICTURES = [encoded(picture(seed)) for seed in range(30)]
PROBS_MBK = np.stack([exact_MK(data) for data in PICTURES], axis=1)


def gap(probs_dBK: NDArray[np.float64], depth: int, share: float) -> float:
    """A threshold that a share of the images stays below, far from any image's margin."""
    weights_d = [weight / sum(WEIGHTS_M[:depth]) for weight in WEIGHTS_M[:depth]]
    probs_BK = mean_probabilities(probs_dBK, weights_d, TEMPERATURES[depth - 1])
    margins_B = np.sort(margin(probs_BK))
    place = int(len(margins_B) * share)
    near = margins_B[place - 3 : place + 3]
    widest = int(np.diff(near).argmax())
    return float((near[widest] + near[widest + 1]) / 2)


THRESHOLDS = (gap(PROBS_MBK[:1], 1, 0.6), gap(PROBS_MBK[:2], 2, 0.5))
SURE = float(np.median(mean_probabilities(PROBS_MBK, WEIGHTS_M, 2.0).max(axis=1)))
CASCADE = cascade_record(
    (0.0, 0.0), THRESHOLDS, (None, None), temperatures=TEMPERATURES, sets=0.75, sure=0.8
)


@pytest.fixture
def cascade_dir(tmp_path: Path) -> Path:
    return make_bundle(
        tmp_path / "cascade",
        weights_M=WEIGHTS_M,
        temperature=2.0,
        cascade=CASCADE,
        calibration=calibration_record(0.7, SURE),
    )


@pytest.fixture
def cascade_engine(cascade_dir: Path) -> Iterator[Engine]:
    with load_engine(cascade_dir) as engine:
        yield engine


@pytest_asyncio.fixture
async def cascade_http(cascade_engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    async with client(create_app(Settings(), cascade_engine)) as http:
        yield http


def reference(bundle: BundleManifest) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rule = bundle.cascade_at()
    assert rule is not None
    return run_cascade(PROBS_MBK, rule, bundle.temperature)


async def ask(http: httpx.AsyncClient, query: str, count: int = len(PICTURES)) -> list[Any]:
    answers = []
    for data in PICTURES[:count]:
        reply = await http.post(f"/predict?{query}", content=data)
        assert reply.status_code == 200, reply.text
        PredictResponse.model_validate(reply.json())
        answers += reply.json()["predictions"]
    return answers


async def test_answers_of_a_cascade_are_those_of_the_reference(
    cascade_http: httpx.AsyncClient, cascade_dir: Path
) -> None:
    answers_BK, used_B = reference(read_bundle(cascade_dir))
    assert set(used_B) == {1, 2, 3}
    for row, answer in enumerate(await ask(cascade_http, "mode=cascade&members=true")):
        depth = answer["members_used"]
        assert depth == used_B[row]
        np.testing.assert_allclose(answer["probabilities"], answers_BK[row], atol=1e-4)
        probs_dK = PROBS_MBK[:depth, row]
        weights_d = [weight / sum(WEIGHTS_M[:depth]) for weight in WEIGHTS_M[:depth]]
        assert [m["name"] for m in answer["members"]] == [f"cycle-0{i}" for i in range(depth)]
        assert [m["weight"] for m in answer["members"]] == pytest.approx(weights_d)
        told_dK = [m["probabilities"] for m in answer["members"]]
        np.testing.assert_allclose(told_dK, probs_dK, atol=1e-4)
        assert answer["uncertainty"] == pytest.approx(
            {
                "entropy_nats": float(entropy(answers_BK[row])),
                "disagreement_nats": float(disagreement(probs_dK, weights_d)),
            },
            abs=1e-4,
        )


async def test_images_of_one_request_leave_one_by_one(
    cascade_http: httpx.AsyncClient, cascade_dir: Path
) -> None:
    _, used_B = reference(read_bundle(cascade_dir))
    files = [("image", (f"{i}.png", data)) for i, data in enumerate(PICTURES)]
    answers = (await cascade_http.post("/predict?mode=cascade", files=files)).json()
    assert [answer["members_used"] for answer in answers["predictions"]] == used_B.tolist()


async def test_a_bundle_with_a_cascade_still_asks_everybody_unless_told_otherwise(
    cascade_http: httpx.AsyncClient,
) -> None:
    for query in ("", "mode=full"):
        for row, answer in enumerate(await ask(cascade_http, query, 5)):
            assert answer["members_used"] == 3
            probs_K = mean_probabilities(PROBS_MBK[:, row], WEIGHTS_M, 2.0)
            np.testing.assert_allclose(answer["probabilities"], probs_K, atol=1e-4)


async def test_the_mode_of_the_server_holds_where_a_request_has_none(
    cascade_engine: Engine, cascade_dir: Path
) -> None:
    _, used_B = reference(read_bundle(cascade_dir))
    async with client(create_app(Settings(mode="cascade"), cascade_engine)) as http:
        assert [a["members_used"] for a in await ask(http, "")] == used_B.tolist()
        assert [a["members_used"] for a in await ask(http, "mode=full", 5)] == [3] * 5
        model = (await http.get("/model")).json()
    assert model["mode"] == "cascade"
    assert tuple(model["cascade_point"]["thresholds"]) == THRESHOLDS


@pytest.mark.parametrize(("drop", "used"), [(0.5, 1), (0.0, 3)])
async def test_a_tolerance_picks_another_point_of_the_cascade(
    cascade_dir: Path, drop: float, used: int
) -> None:
    with load_engine(cascade_dir, max_accuracy_drop=drop) as engine:
        async with client(create_app(Settings(), engine)) as http:
            answers = await ask(http, "mode=cascade", 5)
            point = (await http.get("/model")).json()["cascade_point"]
    assert [answer["members_used"] for answer in answers] == [used] * 5
    assert CASCADE.point(drop).model_dump(mode="json") == point


async def test_model_of_a_bundle_without_a_cascade_has_no_point(http: httpx.AsyncClient) -> None:
    model = (await http.get("/model")).json()
    assert model["mode"] == "full" and model["cascade_point"] is None


async def test_a_bundle_without_a_cascade_says_how_to_make_one(
    http: httpx.AsyncClient, engine: Engine, bundle_dir: Path
) -> None:
    reply = await http.post("/predict?mode=cascade", content=PICTURES[0])
    how = "`snapensemble export RUN_DIR --out BUNDLE_DIR --cascade`"
    assert how in is_problem(reply, 422, "invalid_parameter")
    with pytest.raises(InvalidParameter, match="carries no cascade"):
        engine.submit([], "cascade")
    with pytest.raises(InvalidParameter, match="carries no cascade"):
        create_app(Settings(mode="cascade"), engine)
    with pytest.raises(InvalidParameter, match="max_accuracy_drop: this bundle carries no cascade"):
        load_engine(bundle_dir, max_accuracy_drop=0.01)


def test_a_class_conditional_set_has_a_limit_of_its_own_for_each_class(cascade_dir: Path) -> None:
    bundle = read_bundle(cascade_dir)
    per_class = SetQuantile(
        method="least_ambiguous", coverage=0.9, quantile=None, per_class=(0.1, None, 0.7)
    )
    probs_dK = np.array([[0.6, 0.05, 0.35]] * len(bundle.members))
    answer = prediction(MemberOutputs(probs_dK), bundle, PredictOptions(), Promised(per_class))
    named = answer["prediction_set"]["classes"]
    # The first is the likeliest, the second in every set, the third just within 1 - 0.7.
    assert named == [CLASSES[0], CLASSES[2], CLASSES[1]]
    likelier = per_class.model_copy(update={"per_class": (0.1, 0.1, 0.1)})
    answer = prediction(MemberOutputs(probs_dK), bundle, PredictOptions(), Promised(likelier))
    assert answer["prediction_set"]["classes"] == [CLASSES[0]]


@pytest.mark.parametrize(("mode", "quantile"), [("full", 0.7), ("cascade", 0.75)])
async def test_a_prediction_set_is_that_of_the_mode(
    cascade_http: httpx.AsyncClient, cascade_dir: Path, mode: str, quantile: float
) -> None:
    bundle = read_bundle(cascade_dir)
    full_BK = mean_probabilities(PROBS_MBK, WEIGHTS_M, 2.0)
    probs_BK = full_BK if mode == "full" else reference(bundle)[0]
    in_set_BK = prediction_sets(probs_BK, set_quantiles(quantile)[1])
    assert len(set(in_set_BK.sum(axis=1))) > 1  # sets of several sizes
    answers = await ask(cascade_http, f"mode={mode}&coverage=0.9&top=1")
    for row, answer in enumerate(answers):
        likeliest = [k for k in np.argsort(-probs_BK[row]) if in_set_BK[row, k]]
        assert answer["prediction_set"] == {
            "coverage": 0.9,
            "classes": [CLASSES[k] for k in likeliest],
        }
        assert len(answer["top"]) == 1
    (without,) = await ask(cascade_http, f"mode={mode}", 1)
    assert "prediction_set" not in without


async def test_a_coverage_that_is_not_carried_is_refused_with_those_that_are(
    cascade_http: httpx.AsyncClient, http: httpx.AsyncClient
) -> None:
    for mode in ("full", "cascade"):
        url = f"/predict?coverage=0.8&mode={mode}"
        detail = is_problem(
            await cascade_http.post(url, content=PICTURES[0]), 422, "invalid_parameter"
        )
        assert f"got 0.8; the bundle's prediction sets in mode {mode}: 0.9" in detail
    reply = await http.post("/predict?coverage=0.9", content=PICTURES[0])
    assert "in mode full: none" in is_problem(reply, 422, "invalid_parameter")
    for coverage in ("0", "1", "nan", "much"):
        reply = await http.post(f"/predict?coverage={coverage}", content=PICTURES[0])
        assert "coverage" in is_problem(reply, 422, "invalid_parameter")


@pytest.mark.parametrize(("mode", "threshold"), [("full", SURE), ("cascade", 0.8)])
async def test_an_answer_that_is_not_sure_enough_says_so(
    cascade_http: httpx.AsyncClient, cascade_dir: Path, mode: str, threshold: float
) -> None:
    probs_BK = (
        mean_probabilities(PROBS_MBK, WEIGHTS_M, 2.0)
        if mode == "full"
        else reference(read_bundle(cascade_dir))[0]
    )
    unsure_B = (probs_BK.max(axis=1) <= threshold).tolist()
    assert set(unsure_B) == {True, False}
    said = await ask(cascade_http, f"mode={mode}&abstain=0.15")
    assert [one["abstain"] for one in said] == unsure_B
    # All images together are promised as much already.
    assert not any(one["abstain"] for one in await ask(cascade_http, f"mode={mode}&abstain=0.2"))
    (without,) = await ask(cascade_http, f"mode={mode}", 1)
    assert "abstain" not in without
    PredictResponse.model_validate({"predictions": said, "model": {"name": "a", "version": "b"}})
    metrics = (await cascade_http.get("/metrics")).text
    assert f"snapensemble_abstained_predictions_total {sum(unsure_B):.1f}" in metrics


async def test_a_promise_that_the_bundle_does_not_make_is_refused_with_what_it_does(
    cascade_http: httpx.AsyncClient, http: httpx.AsyncClient
) -> None:
    for mode in ("full", "cascade"):
        url = f"/predict?abstain=0.09&mode={mode}"
        reply = await cascade_http.post(url, content=PICTURES[0])
        detail = is_problem(reply, 422, "invalid_parameter")
        assert f"got 0.09; in mode {mode} the bundle promises at most 0.1 wrong answers" in detail
        assert "from the 40 images" in detail and "--val-fraction" in detail
    reply = await http.post("/predict?abstain=0.1", content=PICTURES[0])
    assert "export the run again" in is_problem(reply, 422, "invalid_parameter")
    for risk in ("0", "1", "-0.1", "nan", "much"):
        reply = await http.post(f"/predict?abstain={risk}", content=PICTURES[0])
        assert "abstain" in is_problem(reply, 422, "invalid_parameter")


async def test_a_client_that_leaves_takes_its_image_out_between_stages(cascade_dir: Path) -> None:
    fakes = [GatedMember(is_open=False), GatedMember(), GatedMember()]
    with load_engine(cascade_dir, max_accuracy_drop=0) as engine:  # where everyone goes on
        engine.scheduler._members = fakes
        leaving = LeavingClient(create_app(Settings(mode="cascade"), engine), PICTURES[0])
        request = asyncio.create_task(leaving.run())
        assert await asyncio.to_thread(fakes[0].entered.acquire, timeout=30)
        leaving.leave.set()
        await request
        fakes[0].gate.set()
    assert [fake.batches for fake in fakes] == [[1], [], []]


async def test_the_metrics_count_the_members_of_each_image(cascade_dir: Path) -> None:
    _, used_B = reference(read_bundle(cascade_dir))
    metrics = Metrics()
    with load_engine(cascade_dir, on_batch=partial(metrics.batch, "insects")) as engine:
        async with client(create_app(Settings(), engine, metrics)) as http:
            await ask(http, "mode=cascade")
    lines = metrics.page().decode().splitlines()
    for depth in (1, 2, 3):
        within = float((used_B <= depth).sum())
        assert f'snapensemble_members_used_bucket{{le="{depth}.0"}} {within}' in lines
    assert f"snapensemble_members_used_sum {float(used_B.sum())}" in lines
