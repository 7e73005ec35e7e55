from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from snapensemble.serving.http.app import create_app
from snapensemble.serving.inference.engine import Engine, load_engine
from tests.factories import make_cascade_bundle
from tests.fakes import client
from tests.serving.conftest import LIMITS


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with load_engine(make_cascade_bundle(tmp_path / "bundle"), LIMITS.limits()) as engine:
        yield engine


@pytest.fixture
def app(engine: Engine) -> FastAPI:
    return create_app(LIMITS, engine)


@pytest_asyncio.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client(app) as http:
        yield http
