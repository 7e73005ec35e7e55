"""Stand-ins that a test controls: members that wait for a signal, and clients of an ASGI app."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray

from snapensemble.contracts.cascade import Mode
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.inference.lanes import Task
from snapensemble.serving.inference.request import Answer, PendingImage, Picture
from snapensemble.serving.inference.scheduler import Scheduler
from tests.openapi import checks, document_of_app


class GatedMember:
    """A member that answers the sum of each image's pixels once its gate is open."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[int] = []
        self.failure: Exception | None = None
        if is_open:
            self.gate.set()

    def __call__(self, images_BCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(len(images_BCHW))
        self.entered.release()
        assert self.gate.wait(30)
        if self.failure is not None:
            raise self.failure
        sums_B = images_BCHW.reshape(len(images_BCHW), -1).sum(axis=1) / 100
        return np.stack([sums_B, np.zeros_like(sums_B)], axis=1).astype(np.float32)


class GatedTrunk(GatedMember):
    """A trunk that gives twice each pixel once its gate is open."""

    def __call__(self, images_BCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        super().__call__(images_BCHW)
        assert images_BCHW.dtype == np.uint8, "it was asked about features"
        return 2 * images_BCHW.astype(np.float32)


def submit(scheduler: Scheduler, pictures: Sequence[Picture], mode: Mode = "full") -> list[Answer]:
    """Hand pictures to a scheduler as one request; the futures of their answers come back."""
    images = [PendingImage(picture) for picture in pictures]
    scheduler.submit(images, mode)
    return [image.answer for image in images]


def client(app: FastAPI) -> httpx.AsyncClient:
    """A client that speaks to the app without a port; defects come as answers, as over a port.

    An answer that the app's OpenAPI document does not declare fails the test.
    """
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    has_document = hasattr(app.state, "document")
    hooks = {"response": [checks(document_of_app(app))]} if has_document else {}
    return httpx.AsyncClient(transport=transport, base_url="http://test", event_hooks=hooks)


def fail_members(engine: Engine, error: Exception) -> None:
    """Make every member raise an error from now on."""
    member = GatedMember()
    member.failure = error
    engine.scheduler._members = [member] * len(engine.bundle.members)


def prediction_scope(headers: Sequence[tuple[bytes, bytes]], query: bytes = b"") -> dict[str, Any]:
    """The scope of a POST to /predict, as an ASGI server hands it over."""
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": "/predict", "raw_path": b"/predict", "query_string": query,
        "root_path": "", "headers": headers, "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2), "state": {},
    }  # fmt: skip


class LeavingClient:
    """A client that sends a whole request and leaves once `leave` is set."""

    def __init__(self, app: FastAPI, body: bytes, content_type: str = "image/png") -> None:
        self._app = app
        self._body = body
        self._content_type = content_type.encode()
        self.leave = asyncio.Event()
        self.answers: list[Any] = []

    async def run(self) -> None:
        sent = False

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": self._body, "more_body": False}
            await self.leave.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            self.answers.append(message)

        scope = prediction_scope([(b"content-type", self._content_type)])
        await self._app(scope, receive, send)


def next_task(scheduler: Scheduler) -> Task:
    """What a lane of a scheduler that is not started would do next."""
    with scheduler._lock:
        task = scheduler.next_task()
    assert task is not None, "nothing to do"
    return task
