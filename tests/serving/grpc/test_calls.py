"""The methods of the service: the same numbers, limits, tokens and counts as over HTTP."""

import asyncio
import gc
import re
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

pytest.importorskip("grpc", reason="gRPC is not tried: pip install 'snapensemble[grpc]'")

import grpc

from snapensemble.serving.errors import InvalidTensor
from snapensemble.serving.grpc.messages import (
    CLASSES,
    HEALTH,
    IS_NOT_SERVING,
    IS_SERVING,
    SERVICE,
)
from snapensemble.serving.http.app import create_app
from snapensemble.serving.http.problems import GRPC_STATUS, PROBLEMS
from snapensemble.serving.inference.engine import Engine
from tests.fakes import GatedMember, client
from tests.serving.conftest import LIMITS
from tests.serving.grpc.calling import (
    Client,
    forms,
    output,
    raw_pictures,
    request,
    serving,
    tensor,
    tensors_of,
)
from tests.serving.http.open_inference.asking import CHW, PNGS, serialized

pytestmark = pytest.mark.extra

TOKEN = "0123456789abcdef"
NONE = b""
Code = grpc.StatusCode


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


class Held:
    """What a call needs."""


async def test_what_a_refused_call_needed_is_freed_without_a_collection_of_cycles(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[Held]] = []

    async def refuse(*_: object) -> bytes:
        needed = Held()
        held.append(weakref.ref(needed))
        raise InvalidTensor("not those of the model")

    monkeypatch.setattr("snapensemble.serving.grpc.server.infer", refuse)
    gc.disable()
    try:
        async with serving(LIMITS, engine) as (caller, _, _), asyncio.timeout(10):
            for _ in range(3):
                await refusal(caller.call("ModelInfer", raw_pictures()))
            while any(each() is not None for each in held):  # its task ends after its answer
                await asyncio.sleep(0.001)
    finally:
        gc.enable()
    assert len(held) == 3


async def test_the_numbers_are_those_of_predict_in_every_form(engine: Engine) -> None:
    async with client(create_app(LIMITS, engine)) as http:
        files = [("image", (f"{k}.png", png)) for k, png in enumerate(PNGS)]
        expected = (await http.post("/predict", files=files)).json()["predictions"]
    probs_NK = [each["probabilities"] for each in expected]
    async with serving(LIMITS, engine) as (caller, _, _):
        for form in forms():
            answer = await caller.call("ModelInfer", form)
            found = tensors_of(answer)
            np.testing.assert_allclose(found["probabilities"], probs_NK, atol=1e-6, rtol=0)
            assert found["class"].tolist() == [each["class"] for each in expected]
            assert bool(answer.raw_output_contents) == bool(form.raw_input_contents)


async def test_what_is_asked_by_name_is_given_with_the_id(engine: Engine) -> None:
    names = ["members_used", "member_probabilities", "entropy_nats", "abstain"]
    asked = raw_pictures(id="a", outputs=[output(name) for name in names])
    asked.parameters["mode"].string_param = "cascade"
    asked.parameters["abstain"].double_param = 0.5
    async with serving(LIMITS, engine) as (caller, _, _):
        answer = await caller.call("ModelInfer", asked)
    found = tensors_of(answer)
    assert list(found) == names and answer.id == "a" and answer.model_version == "0badcafe"
    sums_NM = found["member_probabilities"].sum(axis=-1)
    assert 0 < min(found["members_used"]) < 3
    np.testing.assert_array_equal((sums_NM > 0).sum(axis=1), found["members_used"])


async def test_the_metadata_and_the_probes_answer(engine: Engine) -> None:
    async with serving(LIMITS, engine) as (caller, _, service):
        assert (await caller.call("ServerLive", NONE)).live
        assert (await caller.call("ServerReady", NONE)).ready
        named = CLASSES["ModelReadyRequest"](name="insects", version="0badcafe")
        assert (await caller.call("ModelReady", named)).ready
        server = await caller.call("ServerMetadata", NONE)
        assert server.name == "snapensemble" and "binary_tensor_data" in server.extensions
        model = await caller.call("ModelMetadata", named)
        assert [(each.name, list(each.shape)) for each in model.inputs] == [
            ("pictures", [-1]), ("images", [-1, *CHW]),
        ]  # fmt: skip
        service.shutdown.stopping = True
        assert not (await caller.call("ServerReady", NONE)).ready
        assert not (await caller.call("ModelReady", named)).ready
        assert (await caller.call("ServerLive", NONE)).live


async def test_grpcs_own_health_checks_follow_the_server_and_its_models(engine: Engine) -> None:
    guarded = LIMITS.model_copy(update={"tokens": SecretStr(TOKEN)})
    async with serving(guarded, engine) as (caller, _, service):

        def health(name: str) -> Any:
            asked = CLASSES["HealthCheckRequest"](service=name)
            return caller.call("Check", asked, service=HEALTH)

        for name in ("", SERVICE, "insects"):
            assert (await health(name)).status == IS_SERVING
        assert (await refusal(health("nobody"))).code() is Code.NOT_FOUND
        assert (await refusal(caller.call("Check", b"\xff", service=HEALTH))).code() is (
            Code.INVALID_ARGUMENT
        )
        service.shutdown.stopping = True
        for name in ("", SERVICE, "insects"):
            assert (await health(name)).status == IS_NOT_SERVING


BAD = [
    (request(), "found 0 (none)"),
    (request(tensor("pictures", "FP32", [1], fp32_contents=[1.0])), "found 'pictures' 'FP32'"),
    (request(tensor("pictures", "BYTES", [1])), "pictures: found no contents, expected bytes_"),
    (request(tensor("pictures", "BYTES", [1], int_contents=[1])), "found int_contents"),
    (request(tensor("pictures", "BYTES", [2], bytes_contents=PNGS)), "the 2 elements"),
    (request(tensor("pictures", "BYTES", [10_000], bytes_contents=PNGS)), "10,000 images"),
    (request(tensor("pictures", "BYTES", [-1], bytes_contents=PNGS)), "the shape [-1]"),
    (request(tensor("images", "UINT8", [1, *CHW], uint_contents=[256] * 90)), "from 0 to 255"),
    (request(tensor("images", "UINT8", [1, *CHW]), raw_input_contents=[b"x"]), "found 1 bytes"),
    (
        request(tensor("pictures", "BYTES", [1]), raw_input_contents=[b"\xff\xff\xff\xff"]),
        "is to have 4,294,967,295 bytes, 0 are left",
    ),
    (
        request(tensor("pictures", "BYTES", [1]), raw_input_contents=[b"", b""]),
        "raw_input_contents: found 2 for 1 inputs",
    ),
    (
        request(
            tensor("pictures", "BYTES", [1], bytes_contents=PNGS[:1]),
            raw_input_contents=[serialized(PNGS[:1])],
        ),
        "no contents beside them",
    ),
    (raw_pictures(outputs=[output("x")]), "found 'x', expected some of probabilities"),
    (raw_pictures(parameters={"mode": CLASSES["InferParameter"]()}), "'mode' has no value"),
    (
        raw_pictures(parameters={"mode": CLASSES["InferParameter"](int64_param=1)}),
        "A parameter is not right: mode",
    ),
    (b"\xff\xff\xff", "the message is no ModelInferRequest"),
]


async def test_what_is_wrong_is_an_invalid_argument_and_hurts_nobody(engine: Engine) -> None:
    async with serving(LIMITS, engine) as (caller, _, _):
        for message, text in BAD:
            error = await refusal(caller.call("ModelInfer", message))
            assert error.code() is Code.INVALID_ARGUMENT, text
            assert text in str(error.details())
            assert tensors_of(await caller.call("ModelInfer", raw_pictures()))


async def test_no_message_is_the_server_s_fault(engine: Engine) -> None:
    loop = asyncio.get_running_loop()
    async with serving(LIMITS, engine) as (caller, _, _):

        @settings(max_examples=100)
        @given(st.binary(max_size=40), st.integers(0, 300), st.integers(0, 255))
        def send(noise: bytes, place: int, byte: int) -> None:
            good = raw_pictures(1).SerializeToString()
            place %= len(good)
            for message in (noise, good[:place], good[:place] + bytes([byte]) + good[place + 1 :]):
                asyncio.run_coroutine_threadsafe(answered(caller, message), loop).result(30)

        await asyncio.to_thread(send)


async def answered(caller: Client, message: bytes) -> None:
    """Refuse an answer that says that the server has done wrong."""
    try:
        await caller.call("ModelInfer", message)
    except grpc.aio.AioRpcError as error:
        assert error.code() in (Code.INVALID_ARGUMENT, Code.NOT_FOUND), error.details()


async def test_an_unknown_model_is_not_found(engine: Engine) -> None:
    unknown = CLASSES["ModelInferRequest"](model_name="x")
    async with serving(LIMITS, engine) as (caller, _, _):
        for method in ("ModelInfer", "ModelReady", "ModelMetadata"):
            message = unknown if method == "ModelInfer" else CLASSES[f"{method}Request"](name="x")
            error = await refusal(caller.call(method, message))
            assert error.code() is Code.NOT_FOUND and "found 'x'" in str(error.details())


def test_every_status_has_one_of_grpc() -> None:
    assert {status for status, _, _ in PROBLEMS.values()} == set(GRPC_STATUS)
    assert all(hasattr(Code, name) for name in GRPC_STATUS.values())


async def test_a_message_beyond_the_limit_is_refused_by_the_transport(engine: Engine) -> None:
    async with serving(LIMITS, engine) as (caller, _, _):
        error = await refusal(caller.call("ModelInfer", bytes(LIMITS.max_body_bytes + 1)))
        assert error.code() is Code.RESOURCE_EXHAUSTED


async def test_overload_is_unavailable_with_the_time_to_wait(engine: Engine) -> None:
    async with serving(LIMITS, engine) as (caller, _, service):
        engine.admission._max_images = 2
        error = await refusal(caller.call("ModelInfer", raw_pictures()))
        assert error.code() is Code.UNAVAILABLE
        trailing = dict(error.trailing_metadata())
        assert trailing["code"] == "overloaded" and int(trailing["retry-after"]) >= 1
        assert trailing["grpc-retry-pushback-ms"] == f"{trailing['retry-after']}000"
        assert service.metrics.page().count(b'code="overloaded"')


async def test_only_calls_with_a_token_are_answered(engine: Engine) -> None:
    guarded = LIMITS.model_copy(update={"tokens": SecretStr(TOKEN)})
    async with serving(guarded, engine) as (caller, _, _):
        for metadata in (None, [("authorization", "Bearer wrong-wrong-wrong")]):
            error = await refusal(caller.call("ModelInfer", raw_pictures(), metadata=metadata))
            assert error.code() is Code.UNAUTHENTICATED and TOKEN not in str(error.details())
        right = [("authorization", f"Bearer {TOKEN}")]
        assert await caller.call("ModelInfer", raw_pictures(), metadata=right)
        assert (await caller.call("ServerReady", NONE)).ready
        assert (await refusal(caller.call("ServerMetadata", NONE))).code() is Code.UNAUTHENTICATED


async def test_calls_are_counted_and_logged_and_their_id_is_repeated(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    logged = LIMITS.model_copy(update={"access_log": True})
    caplog.set_level("INFO", logger="snapensemble")
    async with serving(logged, engine) as (caller, _, service):
        call = caller.call("ModelInfer", raw_pictures(), metadata=[("x-request-id", "mine")])
        await call
        assert dict(await call.trailing_metadata())["x-request-id"] == "mine"
        error = await refusal(caller.call("ModelInfer", request()))
        assert re.fullmatch("[0-9a-f]{32}", dict(error.trailing_metadata())["x-request-id"])
    path = "/inference.GRPCInferenceService/ModelInfer"
    page = service.metrics.page().decode()
    assert re.search(rf'requests_total{{[^}}]*"{re.escape(path)}"[^}}]*}} ', page)
    fields = [record.__dict__["fields"] for record in caplog.records]
    logged_as = [(each["route"], each["status"]) for each in fields]
    assert logged_as == [(path, 200), (path, 400)]


async def test_the_deadline_of_the_client_is_that_of_the_answer(engine: Engine) -> None:
    """One member answers and the next one does not: a part of the answer comes in time."""
    stuck = GatedMember(is_open=False)
    engine.scheduler._members = [engine.scheduler._members[0], stuck, stuck]
    try:
        async with serving(LIMITS, engine) as (caller, _, _):
            asked = raw_pictures(1, outputs=[output("members_used")])
            answer = await caller.call("ModelInfer", asked, timeout=2)
            assert answer.parameters["partial"].bool_param
            assert tensors_of(answer)["members_used"].tolist() == [1]
            engine.scheduler._members = [stuck] * 3
            error = await refusal(caller.call("ModelInfer", raw_pictures(1), timeout=1))
            assert error.code() is Code.DEADLINE_EXCEEDED
            assert "no member had answered" in str(error.details())
    finally:
        stuck.gate.set()


async def test_a_client_that_leaves_leaves_nothing_behind(engine: Engine) -> None:
    stuck = GatedMember(is_open=False)
    engine.scheduler._members = [stuck] * 3
    try:
        async with serving(LIMITS, engine) as (caller, _, service):
            call = caller.call("ModelInfer", raw_pictures(1))
            await asyncio.to_thread(stuck.entered.acquire)
            assert engine.admission.memory.held > 0
            call.cancel()
            while engine.admission.requests:
                await asyncio.sleep(0)
            assert service.metrics.departed._value.get() == 1
    finally:
        stuck.gate.set()


async def test_a_stop_lets_the_accepted_finish_and_refuses_the_next(engine: Engine) -> None:
    stuck = GatedMember(is_open=False)
    engine.scheduler._members = [stuck] * 3
    async with serving(LIMITS, engine) as (caller, server, _):
        accepted = asyncio.ensure_future(_awaited(caller.call("ModelInfer", raw_pictures(1))))
        await asyncio.to_thread(stuck.entered.acquire)
        stopping = asyncio.create_task(server.stop(20))
        await asyncio.sleep(0)
        late = await refusal(caller.call("ModelInfer", raw_pictures(1), timeout=5))
        # Where the connection has not been told to go yet, gRPC cancels what comes over it.
        assert late.code() in (Code.UNAVAILABLE, Code.CANCELLED)
        stuck.gate.set()
        assert (await accepted).outputs
        await stopping


async def _awaited(call: Any) -> Any:
    return await call
