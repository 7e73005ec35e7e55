"""Whatever a client sends is a mistake of the client, and nothing of it stays behind."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from snapensemble.serving.http.app import create_app
from snapensemble.serving.inference.engine import load_engine
from tests.factories import make_cascade_bundle
from tests.fakes import prediction_scope
from tests.openapi import check_answer, document_of_app
from tests.serving import strange
from tests.serving.conftest import LIMITS

Pairs = Sequence[tuple[bytes, bytes]]
HANGS_AFTER_S = 20


class Asker:
    """Puts requests to an app as a server would that lets everything through."""

    def __init__(self, app: FastAPI, runner: asyncio.Runner) -> None:
        self._app = app
        self._runner = runner
        self._document = document_of_app(app)

    def __call__(
        self, chunks: Sequence[bytes], media_type: bytes, more: Pairs = (), query: bytes = b""
    ) -> int:
        """The status of an answer that is as declared; the server then holds nothing of it."""
        headers = [(b"content-type", media_type), *more]
        response = self._runner.run(self._ask(list(chunks), headers, query))
        check_answer(self._document, "POST", "/predict", response)
        assert response.status_code < 500 or response.status_code == 504
        self._runner.run(self._nothing_is_held())
        return response.status_code

    async def _nothing_is_held(self) -> None:
        async with asyncio.timeout(HANGS_AFTER_S):
            while (
                self._app.state.service.model().admission.memory.held
            ):  # a lane may not be done yet
                await asyncio.sleep(0.001)

    async def _ask(self, chunks: list[bytes], headers: Any, query: bytes) -> httpx.Response:
        said: list[Any] = []

        async def receive() -> Any:
            if not chunks:
                await asyncio.Event().wait()  # the client waits for its answer
            return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

        async def send(message: Any) -> None:
            said.append(message)

        async with asyncio.timeout(HANGS_AFTER_S):
            await self._app(prediction_scope(headers, query), receive, send)
        body = b"".join(message.get("body", b"") for message in said[1:])
        return httpx.Response(said[0]["status"], headers=said[0]["headers"], content=body)


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    bundle_dir = make_cascade_bundle(tmp_path_factory.mktemp("strange") / "bundle")
    with load_engine(bundle_dir, LIMITS.limits()) as engine, asyncio.Runner() as runner:
        yield Asker(create_app(LIMITS, engine), runner)


def in_chunks(data: bytes, sizes: list[int]) -> list[bytes]:
    chunks = []
    for size in sizes:
        chunks.append(data[:size])
        data = data[size:]
    return [*chunks, data]


@settings(max_examples=400)
@given(strange.damaged_pictures())
def test_damaged_pictures(ask: Asker, data: bytes) -> None:
    assert ask([data], b"image/png") in (200, 413, 422)


@settings(max_examples=200)
@given(strange.bodies, strange.media_types, st.lists(st.integers(0, 100), max_size=4))
def test_bodies_of_any_type_in_any_pieces(
    ask: Asker, data: bytes, media_type: bytes, sizes: list[int]
) -> None:
    ask(in_chunks(data, sizes), media_type)


@settings(max_examples=200)
@given(
    strange.whole_forms | strange.broken_forms,
    strange.form_types,
    st.lists(st.integers(0, 100), max_size=4),
)
def test_broken_forms(ask: Asker, data: bytes, media_type: bytes, sizes: list[int]) -> None:
    ask(in_chunks(data, sizes), media_type)


@settings(max_examples=200)
@given(strange.json_documents | strange.json_oddities)
def test_odd_json(ask: Asker, data: bytes) -> None:
    ask([data], b"application/json")


@settings(max_examples=200)
@given(strange.headers, strange.queries, strange.bodies)
def test_odd_headers_and_queries(ask: Asker, more: Pairs, query: bytes, data: bytes) -> None:
    ask([data], b"image/png", more, query)
