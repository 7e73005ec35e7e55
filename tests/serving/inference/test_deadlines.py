"""Answers from the members that were heard when a deadline passes.

Shapes: M members, d members heard, K classes.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from fastapi import FastAPI

from snapensemble.contracts.metrics import mean_probabilities
from snapensemble.serving.errors import DeadlineExceeded, InferenceFailed
from snapensemble.serving.http.app import create_app
from snapensemble.serving.http.responses import prediction
from snapensemble.serving.http.schemas import Prediction, PredictOptions
from snapensemble.serving.inference.batch import Clock
from snapensemble.serving.inference.engine import Engine, Limits, load_engine
from snapensemble.serving.inference.lanes import Lanes
from snapensemble.serving.inference.request import MemberOutputs
from snapensemble.serving.inference.scheduler import Scheduler
from snapensemble.serving.settings import Settings
from tests.factories import calibration_record, cascade_record, make_bundle
from tests.fakes import GatedMember, next_task, submit
from tests.serving.http.test_http import PNG, exact_MK, is_problem
from tests.serving.inference.test_cascade_lanes import cascade, leaves
from tests.serving.inference.test_scheduler import expected, image, lanes
from tests.serving.telemetry.test_drift import REFERENCE
from tests.waiting import wait_for

WEIGHTS_M = [0.5, 0.3, 0.2]


def test_the_members_heard_so_far_are_an_answer_and_the_mates_get_the_whole_one() -> None:
    slow = GatedMember(is_open=False)
    with lanes(GatedMember(), slow, GatedMember(), lanes=Lanes(1)) as running:
        hasty, patient = submit(running, [image(1), image(2)])
        assert slow.entered.acquire(timeout=30)
        said = hasty.cut_short()
        assert said.partial_of == (0,)
        np.testing.assert_allclose(said.probs_dK, expected(1))
        slow.gate.set()
        np.testing.assert_allclose(patient.result(30), expected(2, 3))
    assert hasty.cancelled()


def test_members_may_be_heard_in_any_order() -> None:
    slow, last = GatedMember(is_open=False), GatedMember()
    with lanes(slow, last, lanes=Lanes(2)) as running:
        (answer,) = submit(running, [image(3)])
        assert slow.entered.acquire(timeout=30)
        wait_for(lambda: answer.so_far() is not None)
        said = answer.cut_short()
        assert said.partial_of == (1,)
        np.testing.assert_allclose(said.probs_dK, expected(3))


def test_before_a_member_has_answered_there_is_none() -> None:
    slow = GatedMember(is_open=False)
    with lanes(slow, GatedMember(), lanes=Lanes(1)) as running:
        begun, *_ = submit(running, [image(0)])
        assert slow.entered.acquire(timeout=30)
        (queued,) = submit(running, [image(1)])
        for answer in (begun, queued):
            with pytest.raises(DeadlineExceeded):
                answer.cut_short()
        slow.gate.set()
    assert slow.batches == [1]


def test_a_whole_answer_is_not_partial_and_a_failure_stays_one() -> None:
    good, bad = GatedMember(), GatedMember()
    with lanes(good, bad) as running:
        (whole,) = submit(running, [image(1)])
        whole.result(30)
        assert whole.cut_short().partial_of is None
        bad.failure = RuntimeError("no memory")
        (failed,) = submit(running, [image(1)])
        assert failed.exception(30) is not None
        with pytest.raises(InferenceFailed):
            failed.cut_short()


def test_in_a_cascade_the_first_members_are_heard() -> None:
    fakes = [GatedMember(), GatedMember(), GatedMember(is_open=False)]
    with cascade(*fakes, lanes=Lanes(1)) as running:
        (hard,) = submit(running, [image(2)], "cascade")
        assert fakes[2].entered.acquire(timeout=30)
        said = hard.cut_short()
        assert said.partial_of == (0, 1)
        np.testing.assert_allclose(said.probs_dK, expected(2, 2))


def test_between_two_stages_no_member_is_heard_twice() -> None:
    fakes = [GatedMember() for _ in range(3)]
    waiting = Scheduler(
        fakes, lanes=Lanes(1), max_batch_size=4, split_above_s=math.inf, leaves=leaves
    )  # not started
    (hard,) = submit(waiting, [image(2)], "cascade")
    task = next_task(waiting)
    task(Clock())
    said = hard.cut_short()
    assert said.partial_of == (0,)
    np.testing.assert_allclose(said.probs_dK, expected(2))


def test_what_has_been_answered_holds_no_batch() -> None:
    with lanes(GatedMember()) as running:
        (answer,) = submit(running, [image(1)])
        answer.result(30)
    assert answer.so_far() is None


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    bundle_dir = make_bundle(
        tmp_path / "bundle",
        weights_M=WEIGHTS_M,
        temperature=2.0,
        cascade=cascade_record((None, None)),
        calibration=calibration_record(0.7),
        reference=REFERENCE,
    )
    with load_engine(bundle_dir, Limits(threads=1)) as engine:
        yield engine


class After:
    """A member that waits for a gate before it answers."""

    def __init__(self, member: Any) -> None:
        self.member = member
        self.gate = GatedMember(is_open=False)

    def __call__(self, images_BCHW: Any) -> Any:
        self.gate(images_BCHW)
        return self.member(images_BCHW)


@pytest_asyncio.fixture
async def slow_member(engine: Engine) -> AsyncIterator[After]:
    """The last member of the bundle answers when it is told to."""
    members = engine.scheduler._members
    after = After(members[2])
    engine.scheduler._members = [*members[:2], after]
    yield after
    after.gate.gate.set()


@pytest.fixture
def app(engine: Engine) -> FastAPI:
    return create_app(Settings(), engine)


async def test_a_partial_answer_says_so_and_is_the_calibrated_average_of_those_heard(
    http: httpx.AsyncClient, app: FastAPI, slow_member: After
) -> None:
    query = {"deadline_ms": 200, "members": True, "coverage": 0.9, "abstain": 0.5}
    reply = await http.post("/predict", content=PNG, params=query)
    assert reply.status_code == 200, reply.text
    (answer,) = reply.json()["predictions"]
    Prediction.model_validate(answer)
    assert answer["partial"] is True and answer["members_used"] == 2
    assert "prediction_set" not in answer and answer["abstain"] is True
    assert [member["name"] for member in answer["members"]] == ["cycle-00", "cycle-01"]
    assert [member["weight"] for member in answer["members"]] == pytest.approx([0.625, 0.375])
    of_two = 0.8  # the cascade's temperature for two members
    expected_K = mean_probabilities(exact_MK(PNG)[:2], [0.625, 0.375], of_two)
    np.testing.assert_allclose(answer["probabilities"], expected_K, atol=1e-4)
    app.state.service.show_load()
    lines = app.state.metrics.page().decode().splitlines()
    assert "snapensemble_partial_predictions_total 1.0" in lines
    # Fewer members are spread in another way, so they do not count.
    assert 'snapensemble_drift_answers{model="insects"} 0.0' in lines


async def test_an_answer_that_is_complete_in_time_does_not_mention_parts(
    http: httpx.AsyncClient,
) -> None:
    replies = [
        await http.post(f"/predict{query}", content=PNG) for query in ("", "?deadline_ms=60000")
    ]
    assert replies[0].text == replies[1].text and "partial" not in replies[0].text


async def test_a_request_with_an_image_that_no_member_has_heard_is_a_504(
    http: httpx.AsyncClient, engine: Engine, slow_member: After
) -> None:
    engine.scheduler._max_batch_size = 1  # one image at a time: the second one waits
    files = [("f", ("a.png", PNG)), ("f", ("b.png", PNG))]
    reply = await http.post("/predict?deadline_ms=200", files=files)
    is_problem(reply, 504, "deadline_exceeded")


async def test_a_batch_mate_of_a_hasty_request_gets_its_whole_answer(
    http: httpx.AsyncClient, slow_member: After
) -> None:
    patient = asyncio.create_task(http.post("/predict", content=PNG))
    hasty = await http.post("/predict?deadline_ms=100", content=PNG)
    slow_member.gate.gate.set()
    (answer,) = (await patient).json()["predictions"]
    assert answer["members_used"] == 3
    assert hasty.status_code in (200, 504)


def test_members_that_are_not_the_first_have_the_bundles_temperature(engine: Engine) -> None:
    probs_MK = exact_MK(PNG)
    answer = prediction(
        MemberOutputs(probs_MK[1:], partial_of=(1, 2)), engine.bundle, PredictOptions()
    )
    expected_K = mean_probabilities(probs_MK[1:], [0.6, 0.4], 2.0)
    np.testing.assert_allclose(answer["probabilities"], expected_K)
