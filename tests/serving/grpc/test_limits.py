"""What one client of gRPC can take from others: places, memory, and the time of the event loop."""

import asyncio
import threading
from typing import Any

import pytest

pytest.importorskip("grpc", reason="gRPC is not tried: pip install 'snapensemble[grpc]'")

import grpc

from snapensemble.serving.grpc import inference, server
from snapensemble.serving.grpc.messages import SERVICE
from snapensemble.serving.http import body
from snapensemble.serving.http.adapters.open_inference import inputs
from snapensemble.serving.inference.engine import Engine
from tests.serving.conftest import LIMITS
from tests.serving.grpc.calling import forms, raw_pictures, serving, tensors_of

pytestmark = pytest.mark.extra

Code = grpc.StatusCode
TAKES_LITTLE = (("grpc.http2.lookahead_bytes", 5), ("grpc.http2.bdp_probe", 0))


async def test_an_answer_that_is_not_taken_counts_until_its_connection_is_ended(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTION_S", 0.5)
    monkeypatch.setattr(server, "TAKING_S", 0.0)
    memory, quick = engine.admission.memory, LIMITS.model_copy(update={"max_wait_ms": 1})
    async with serving(quick, engine) as (_, _, service):
        address = str(service.settings.grpc_address)
        async with (
            asyncio.timeout(30),
            grpc.aio.insecure_channel(address, options=TAKES_LITTLE) as channel,
        ):
            call = channel.stream_stream(f"/{SERVICE}/ServerMetadata")()
            await call.write(b"")
            while not memory.held:
                await asyncio.sleep(0.001)
            while memory.held:
                await asyncio.sleep(0.001)


async def test_an_answer_for_which_there_is_no_room_is_none(engine: Engine) -> None:
    memory = engine.admission.memory
    async with serving(LIMITS, engine) as (caller, _, _):
        memory.count(memory.limit)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller.call("ServerMetadata", b"")
        memory.let_go(memory.limit)
        assert caught.value.code() is Code.UNAVAILABLE
        assert (await caller.call("ServerMetadata", b"")).name == "snapensemble"


async def test_limits_beyond_what_grpc_can_count_are_as_far_as_it_can(engine: Engine) -> None:
    names = ("max_body_bytes", "keep_alive_s", "max_queue", "max_connections", "max_wait_ms")
    huge = {**dict.fromkeys(names, 2**40), "max_bytes_in_flight": 2**41}
    async with serving(LIMITS.model_copy(update=huge), engine) as (caller, _, _):
        assert tensors_of(await caller.call("ModelInfer", raw_pictures()))


async def test_numbers_of_a_large_message_are_read_beside_the_event_loop(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def noted(*args: Any, **more: Any) -> Any:
        threads.append(threading.current_thread())
        return inputs.images_of(*args, **more)

    monkeypatch.setattr(inference, "images_of", noted)
    async with serving(LIMITS, engine) as (caller, _, _):
        small = tensors_of(await caller.call("ModelInfer", forms()[3]))
        monkeypatch.setattr(body, "LARGE", 1)
        large = tensors_of(await caller.call("ModelInfer", forms()[3]))
    assert small["probabilities"].tolist() == large["probabilities"].tolist()
    assert [each is threading.main_thread() for each in threads] == [True, False]


async def test_an_id_is_as_long_as_over_http(engine: Engine) -> None:
    async with serving(LIMITS, engine) as (caller, _, _):
        answer = await caller.call("ModelInfer", raw_pictures(1, id="x" * 1000))
        assert answer.id == "x" * 1000
        with pytest.raises(grpc.aio.AioRpcError, match="id: expected a text of at most 1,000"):
            await caller.call("ModelInfer", raw_pictures(1, id="x" * 1001))
