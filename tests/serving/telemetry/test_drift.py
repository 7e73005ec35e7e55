from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from snapensemble.contracts.bundle import read_bundle
from snapensemble.contracts.drift import ReferenceRecord, shares_of
from snapensemble.serving.http.app import create_app
from snapensemble.serving.inference.engine import load_engine
from snapensemble.serving.settings import Settings
from snapensemble.serving.telemetry.metrics import Drift
from tests.factories import cascade_record, encoded, make_bundle, picture
from tests.fakes import client

RNG = np.random.default_rng(0)
CONFIDENCE_N, DISAGREEMENT_N = RNG.uniform(0.3, 1, 500), RNG.uniform(0, 0.5, 500)
REFERENCE = ReferenceRecord(
    images=500, confidence=shares_of(CONFIDENCE_N), disagreement=shares_of(DISAGREEMENT_N)
)


def fed(drift: Drift, count: int, *, confidence: tuple[float, float] = (0.3, 1)) -> Drift:
    rng = np.random.default_rng(1)
    for _ in range(count):
        drift.add(confidence=rng.uniform(*confidence), disagreement=rng.uniform(0, 0.5))
    return drift


def test_a_few_answers_say_nothing() -> None:
    assert fed(Drift(REFERENCE), 99).indices() == {}
    assert fed(Drift(REFERENCE), 100).indices().keys() == {"confidence", "disagreement"}


def test_answers_like_those_of_the_reference_are_no_drift() -> None:
    assert all(index < 0.1 for index in fed(Drift(REFERENCE), 1000).indices().values())


def test_answers_that_are_less_sure_are_drift_of_that_alone() -> None:
    indices = fed(Drift(REFERENCE), 1000, confidence=(0.3, 0.6)).indices()
    assert indices["confidence"] > 0.25 and indices["disagreement"] < 0.1


def test_only_the_last_answers_count() -> None:
    drift = Drift(REFERENCE)
    fed(drift, 5000, confidence=(0.3, 0.35))
    assert drift.indices()["confidence"] > 0.25
    assert fed(drift, 1000).indices() == fed(Drift(REFERENCE), 1000).indices()
    assert len(drift) == 1000


PNG = encoded(picture(1))


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A server whose bundle has a reference and a cascade."""
    bundle_dir = make_bundle(
        tmp_path / "drifting",
        reference=REFERENCE,
        cascade=cascade_record((None, None), (0.0, 0.0)),
    )
    with load_engine(bundle_dir) as engine:
        async with client(create_app(Settings(), engine)) as http:
            yield http


async def psi_lines(http: httpx.AsyncClient) -> list[str]:
    page = (await http.get("/metrics")).text
    return [line for line in page.splitlines() if line.startswith("snapensemble_drift_psi{")]


async def test_the_gauge_is_absent_until_enough_is_answered(http: httpx.AsyncClient) -> None:
    files = [("f", ("x.png", PNG))] * 33
    for _ in range(3):
        assert (await http.post("/predict", files=files)).status_code == 200
    assert await psi_lines(http) == []
    await http.post("/predict", content=PNG)
    confidence, disagreement = await psi_lines(http)
    # The same picture a hundred times is not what validation was.
    assert confidence.startswith('snapensemble_drift_psi{model="insects",quantity="confidence"}')
    assert float(confidence.split()[1]) > 0.25 and float(disagreement.split()[1]) > 0.25


async def test_answers_of_a_cascade_do_not_count(http: httpx.AsyncClient) -> None:
    files = [("f", ("x.png", PNG))] * 50
    for _ in range(3):
        await http.post("/predict?mode=cascade", files=files)
    assert await psi_lines(http) == []
    assert (
        'snapensemble_drift_answers{model="insects"} 0.0'
        in (await http.get("/metrics")).text.splitlines()
    )


async def test_a_bundle_without_a_reference_is_served_without_the_gauge(bundle_dir: Path) -> None:
    assert read_bundle(bundle_dir).reference is None
    with load_engine(bundle_dir) as engine:
        async with client(create_app(Settings(), engine)) as http:
            files = [("f", ("x.png", PNG))] * 50
            for _ in range(3):
                assert (await http.post("/predict", files=files)).status_code == 200
            assert await psi_lines(http) == []
