"""What is counted, logged and sent of each request, in one place."""

import asyncio
import logging
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from snapensemble.serving.http.exchange import STATE, Exchanges, RequestState
from snapensemble.serving.shutdown import Shutdown
from snapensemble.serving.telemetry.metrics import Metrics
from tests.fakes import prediction_scope


async def receive() -> Message:
    message: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    return await message


async def never(message: Message) -> None:
    raise AssertionError(message)


async def ask(
    app: ASGIApp, metrics: Metrics, shutdown: Shutdown, scope: Scope | None = None
) -> Any:
    said: list[Message] = []

    async def send(message: Message) -> None:
        said.append(message)

    exchanges = Exchanges(app, ("/predict",), metrics, shutdown)
    await exchanges(scope or prediction_scope([(b"x-request-id", b"mine")]), receive, send)
    return said


async def fine(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"cache-control", b"max-age=1")]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    await send({"type": "http.response.body", "body": b"x"})


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    pass


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise ZeroDivisionError("secret")


async def broken_half_way(scope: Scope, receive: Receive, send: Send) -> None:
    await fine(scope, receive, send)
    raise ZeroDivisionError("secret")


def counted(metrics: Metrics) -> dict[tuple[str, str], float]:
    return {
        (sample.labels["route"], sample.labels["code"]): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "snapensemble_requests_total"
    }


async def test_every_head_has_the_defaults_what_the_handler_said_and_the_id() -> None:
    start, body = await ask(fine, Metrics(), Shutdown())
    headers = dict(start["headers"])
    assert headers[b"cache-control"] == b"max-age=1" and headers[b"x-request-id"] == b"mine"
    assert headers[b"x-content-type-options"] == b"nosniff" and b"connection" not in headers
    assert len(headers) == len(start["headers"]) and body["body"] == b"x"


@pytest.mark.parametrize(
    ("app", "code"),
    [(fine, "201"), (silent, "499"), (broken, "500"), (broken_half_way, "201")],
)
async def test_each_request_is_counted_once_with_what_its_client_got(
    app: ASGIApp, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics()
    said = await ask(app, metrics, Shutdown())
    assert counted(metrics) == {("/predict", code): 1}
    assert all(b"secret" not in message.get("body", b"") for message in said)
    assert len(caplog.records) == (app in (broken, broken_half_way))


async def test_what_the_protocol_has_answered_counts_as_that() -> None:
    metrics, scope = Metrics(), prediction_scope([])
    scope["state"][STATE] = RequestState(refused_status=400)
    assert await ask(silent, metrics, Shutdown(), scope) == []
    assert counted(metrics) == {("/predict", "400"): 1}


async def test_a_request_that_is_cancelled_is_counted_and_its_id_forgotten() -> None:
    metrics, begun = Metrics(), asyncio.Event()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await receive()

    task = asyncio.create_task(ask(waits, metrics, Shutdown()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert counted(metrics) == {("/predict", "499"): 1}


async def test_a_request_that_is_cut_off_because_the_server_ends_is_told_so() -> None:
    metrics, shutdown, begun = Metrics(), Shutdown(), asyncio.Event()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await receive()

    task = asyncio.create_task(ask(waits, metrics, shutdown))
    await begun.wait()
    shutdown.stop(15)
    task.cancel()
    start, body = await task
    assert start["status"] == 503 and b'"stopping"' in body["body"]
    assert dict(start["headers"])[b"connection"] == b"close"
    assert counted(metrics) == {("/predict", "503"): 1}


async def test_unknown_paths_share_a_name() -> None:
    metrics = Metrics()
    for path in ("/a", "/b"):
        await ask(fine, metrics, Shutdown(), {**prediction_scope([]), "path": path})
    assert counted(metrics) == {("other", "201"): 2}


@pytest.mark.parametrize("why", ["stopping", "crowded"])
async def test_a_connection_that_is_to_end_is_told(why: str) -> None:
    shutdown, scope = Shutdown(), prediction_scope([])
    if why == "stopping":
        shutdown.stop(15)
    else:
        scope["state"][STATE] = RequestState(is_crowded=True)
    start, _ = await ask(fine, Metrics(), shutdown, scope)
    assert dict(start["headers"])[b"connection"] == b"close"


async def test_the_access_log_has_a_line_for_what_was_not_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "snapensemble.access")
    exchanges = Exchanges(silent, (), Metrics(), Shutdown(), access_log=True)
    await exchanges(prediction_scope([]), receive, never)
    (record,) = caplog.records
    assert record.__dict__["fields"]["status"] == 499
