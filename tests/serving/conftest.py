from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

import snapensemble.serving.http.app
from snapensemble.serving.http.app import create_app
from snapensemble.serving.http.service import Service
from snapensemble.serving.inference.engine import Engine, load_engine
from snapensemble.serving.settings import Settings
from tests.fakes import client

LIMITS = Settings(
    max_body_bytes=100_000,
    max_bytes_in_flight=40_000_000,
    max_image_pixels=1_000_000,
    max_images_per_request=4,
    body_timeout_s=0.5,
    max_queue=50,
)


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Check that after a test no server's requests hold anything, whatever the test did."""
    made: list[Service] = []

    class Noted(Service):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(snapensemble.serving.http.app, "Service", Noted)
    yield
    for model in [model for service in made for model in service.all_models]:
        admission, scheduler = model.admission, model.engine.scheduler
        held = admission.memory.held, admission.images, admission.requests
        assert held == (0, 0, 0), "bytes, images, requests that nobody has given back"
        assert not scheduler.closed or scheduler.unclaimed == 0, "images nobody has answered"


@pytest.fixture
def engine(bundle_dir: Path) -> Iterator[Engine]:
    with load_engine(bundle_dir, LIMITS.limits()) as engine:
        yield engine


@pytest.fixture
def app(engine: Engine) -> FastAPI:
    return create_app(LIMITS, engine)


@pytest_asyncio.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client(app) as http:
        yield http
