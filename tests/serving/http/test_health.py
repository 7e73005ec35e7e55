"""Members that fail again and again take the server out of service, and come back."""

import threading
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from snapensemble.serving.errors import InferenceFailed
from snapensemble.serving.inference.engine import Engine, load_engine
from snapensemble.serving.inference.session import TOO_MANY
from snapensemble.serving.telemetry.metrics import Metrics
from tests.factories import CONTRACT
from tests.fakes import GatedMember
from tests.serving.http.test_http import HEADERS, PNG, is_problem


class Flaky:
    """A member that fails when it is told to."""

    def __init__(self, member: Any) -> None:
        self.member = member
        self.fails = False
        self.reported = threading.Semaphore(0)  # once per micro-batch, after its answers

    def __call__(self, images_BCHW: Any) -> Any:
        if self.fails:
            raise RuntimeError("no memory")
        return self.member(images_BCHW)


@pytest.fixture
def flaky(engine: Engine) -> Flaky:
    """The second member of the bundle."""
    first, second, third = engine.scheduler._members
    member = Flaky(second)
    engine.scheduler._members = [first, member, third]
    engine.scheduler._on_batch = [
        *engine.scheduler._on_batch,
        lambda _: member.reported.release(),
    ]
    return member


async def ask(http: httpx.AsyncClient, flaky: Flaky, times: int) -> None:
    """Ask so often, and wait until each micro-batch has been reported."""
    for _ in range(times):
        reply = await http.post("/predict", content=PNG, headers=HEADERS)
        assert reply.status_code == (500 if flaky.fails else 200)
        assert flaky.reported.acquire(timeout=30)


async def test_a_member_that_fails_again_and_again_is_named(
    http: httpx.AsyncClient, flaky: Flaky
) -> None:
    flaky.fails = True
    await ask(http, flaky, TOO_MANY - 1)
    assert (await http.get("/health/ready")).status_code == 200
    await ask(http, flaky, 1)
    reply = await http.get("/health/ready")
    detail = is_problem(reply, 503, "member_failing")
    assert "cycle-01" in detail and "cycle-00" not in detail and "memory" not in detail
    assert int(reply.headers["retry-after"]) >= 1
    assert (await http.get("/health/live")).status_code == 200


async def test_one_success_makes_it_ready_again(http: httpx.AsyncClient, flaky: Flaky) -> None:
    flaky.fails = True
    await ask(http, flaky, TOO_MANY + 2)
    flaky.fails = False
    await ask(http, flaky, 1)
    assert (await http.get("/health/ready")).status_code == 200


async def test_a_success_in_between_starts_the_count_anew(
    http: httpx.AsyncClient, flaky: Flaky
) -> None:
    for _ in range(3):
        flaky.fails = True
        await ask(http, flaky, TOO_MANY - 1)
        flaky.fails = False
        await ask(http, flaky, 1)
    flaky.fails = True
    await ask(http, flaky, 1)
    assert (await http.get("/health/ready")).status_code == 200


async def test_probes_alone_find_out_that_it_answers_again(
    http: httpx.AsyncClient, engine: Engine, flaky: Flaky
) -> None:
    flaky.fails = True
    await ask(http, flaky, TOO_MANY)
    flaky.fails = False
    is_problem(await http.get("/health/ready"), 503, "member_failing")
    assert engine._trial is not None
    assert engine._trial.result(30).shape[0] == 3
    assert flaky.reported.acquire(timeout=30)
    assert (await http.get("/health/ready")).status_code == 200


async def test_one_trial_is_under_way_at_most(
    http: httpx.AsyncClient, engine: Engine, flaky: Flaky
) -> None:
    flaky.fails = True
    await ask(http, flaky, TOO_MANY)
    slow = GatedMember(is_open=False)
    engine.scheduler._members = [slow, GatedMember(), GatedMember()]
    try:
        for _ in range(5):
            is_problem(await http.get("/health/ready"), 503, "member_failing")
        assert slow.entered.acquire(timeout=30) and engine.scheduler.queued == 0
    finally:
        slow.gate.set()


def test_failures_are_counted_for_each_member(bundle_dir: Path) -> None:
    metrics = Metrics()
    with load_engine(bundle_dir, on_batch=partial(metrics.batch, "insects")) as engine:
        metrics.served("insects", engine.bundle.version, engine.bundle, is_served=True)
        first, second, third = engine.scheduler._members
        bad = Flaky(second)
        bad.fails = True
        engine.scheduler._members = [first, bad, third]
        for _ in range(2):
            (answer,) = engine.submit([np.zeros(CONTRACT.shape, np.uint8)])
            assert isinstance(answer.exception(30), InferenceFailed)
    lines = metrics.page().decode().splitlines()  # leaving the block has waited for the lanes
    for member, failures in (("cycle-00", 0), ("cycle-01", 2), ("cycle-02", 0)):
        labels = f'{{member="{member}",model="insects"}}'
        assert f"snapensemble_member_failures_total{labels} {failures}.0" in lines
