"""Messages that do not come: nobody holds a place, or memory, by saying nothing."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("grpc", reason="gRPC is not tried: pip install 'snapensemble[grpc]'")

import grpc
from pydantic import SecretStr

from snapensemble.serving.grpc import reading
from snapensemble.serving.grpc.messages import SERVICE
from snapensemble.serving.inference.engine import Engine
from tests.serving.conftest import LIMITS
from tests.serving.grpc.calling import Client, raw_pictures, serving

pytestmark = pytest.mark.extra

Code = grpc.StatusCode


async def silent() -> AsyncIterator[bytes]:
    """Messages that never come, and no end of them."""
    await asyncio.Event().wait()
    yield b""


async def none() -> AsyncIterator[bytes]:
    """No message, and the end of them."""
    messages: list[bytes] = []
    for message in messages:
        yield message


def begin(caller: Client, messages: AsyncIterator[bytes]) -> Any:
    """Begin a call that sends these messages."""
    return caller.channel.stream_unary(f"/{SERVICE}/ModelInfer")(messages, timeout=30)


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    """The status and the code with which a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), str(dict(caught.value.trailing_metadata() or ()).get("code"))


async def test_a_message_has_the_time_of_a_body_to_come(engine: Engine) -> None:
    async with serving(LIMITS, engine) as (caller, _, _):
        assert await refused(begin(caller, silent())) == (Code.DEADLINE_EXCEEDED, "body_timeout")


async def test_of_messages_that_do_not_come_soon_few_are_waited_for(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SOON_S", 0.01)
    room_for_one = {"max_bytes_in_flight": 2 * LIMITS.max_body_bytes, "body_timeout_s": 20}
    async with serving(LIMITS.model_copy(update=room_for_one), engine) as (caller, _, _):
        calls = [begin(caller, silent()) for _ in range(3)]
        waiting = [asyncio.ensure_future(refused(call)) for call in calls]
        while len(done := [each for each in waiting if each.done()]) < 2:
            await asyncio.wait(set(waiting) - set(done), return_when=asyncio.FIRST_COMPLETED)
        assert [each.result() for each in done] == [(Code.UNAVAILABLE, "overloaded")] * 2
        assert (await caller.call("ModelInfer", raw_pictures())).outputs
        for call in calls:
            call.cancel()
        await asyncio.wait(waiting)


async def test_a_call_without_a_message_is_refused(engine: Engine) -> None:
    async with serving(LIMITS, engine) as (caller, _, _):
        assert await refused(begin(caller, none())) == (Code.INVALID_ARGUMENT, "malformed_body")


async def test_no_message_is_waited_for_without_a_token(engine: Engine) -> None:
    guarded = LIMITS.model_copy(update={"tokens": SecretStr("0123456789abcdef")})
    async with serving(guarded, engine) as (caller, _, _):
        assert await refused(begin(caller, silent())) == (Code.UNAUTHENTICATED, "unauthorized")
