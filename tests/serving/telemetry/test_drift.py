import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from snapensemble.contracts.bundle import read_bundle
from snapensemble.contracts.drift import ReferenceRecord, shares_of
from snapensemble.serving.http.app import create_app
from snapensemble.serving.http.service import Model, Service
from snapensemble.serving.inference.engine import Engine, load_engine
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


def engine_of(directory: Path, reference: ReferenceRecord | None = REFERENCE) -> Engine:
    return load_engine(make_bundle(directory, reference=reference))


async def test_drift_is_that_of_the_newest_version_whatever_others_answer(tmp_path: Path) -> None:
    with engine_of(tmp_path / "1") as old, engine_of(tmp_path / "2") as new:
        app = create_app(Settings(name="bees"), None)
        for version, engine in (("1", old), ("2", new)):
            app.state.service.add(Model(engine, "bees", version))
        async with client(app) as http:
            files = [("f", ("x.png", PNG))] * 50
            for path in ("/predict/bees", "/predict", "/predict/bees/1"):
                assert (await http.post(path, files=files)).status_code == 200
            page = (await http.get("/metrics")).text
            assert 'snapensemble_drift_answers{model="bees"} 100.0' in page.splitlines()
            assert len(await psi_lines(http)) == 2


async def test_drift_of_what_is_served_no_longer_is_not_shown(tmp_path: Path) -> None:
    with engine_of(tmp_path / "1") as one, engine_of(tmp_path / "2") as other:
        app = create_app(Settings(), None)
        service: Service = app.state.service
        service.add(Model(one, "bees", "1"))
        async with client(app) as http:
            files = [("f", ("x.png", PNG))] * 50
            for _ in range(2):
                await http.post("/predict", files=files)
            assert len(await psi_lines(http)) == 2
            service.add(replaced := Model(other, "bees", "1"))
            assert await psi_lines(http) == []  # the new one has answered nothing
            service.remove(replaced)
            assert "snapensemble_drift_answers{" not in (await http.get("/metrics")).text


def test_a_worker_that_can_tell_no_drift_hides_none_of_another(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from snapensemble.serving.process.metrics_files import count_as
count_as(int(sys.argv[1]))
from snapensemble.serving.telemetry.metrics import Metrics
from tests.serving.telemetry.test_drift import REFERENCE, Drift, fed
metrics = Metrics(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
metrics.show_drift({"bees": fed(Drift(REFERENCE), int(sys.argv[2])), "ants": None})
print(metrics.page().decode())
"""
    pages = [
        subprocess.run(
            [sys.executable, "-c", program, place, answers],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for place, answers in (("0", "10"), ("1", "200"), ("2", "20"))
    ]
    shown = [page.count("snapensemble_drift_psi{") for page in pages]
    assert shown == [0, 2, 2] and "ants" not in pages[-1]
    assert 'snapensemble_drift_answers{model="bees"} 10.0' in pages[-1]


async def test_a_bundle_without_a_reference_is_served_without_the_gauge(bundle_dir: Path) -> None:
    assert read_bundle(bundle_dir).reference is None
    with load_engine(bundle_dir) as engine:
        async with client(create_app(Settings(), engine)) as http:
            files = [("f", ("x.png", PNG))] * 50
            for _ in range(3):
                assert (await http.post("/predict", files=files)).status_code == 200
            assert await psi_lines(http) == []
