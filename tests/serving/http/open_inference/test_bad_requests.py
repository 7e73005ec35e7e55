"""What is wrong with a request is answered 4xx in `{"error": TEXT}`, and hurts nobody else."""

import asyncio
import json
from typing import Any

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from snapensemble.serving.http.app import create_app
from snapensemble.serving.inference.engine import Engine
from tests.fakes import client
from tests.serving.conftest import LIMITS
from tests.serving.http.open_inference.asking import (
    CHW,
    HEADER,
    INFER,
    PNGS,
    Json,
    binary,
    binary_input,
    images_in_json,
    pictures_in_json,
    pixels,
    serialized,
    tensors_of,
)

RAW, PIXELS = serialized(PNGS), pixels().tobytes()
PICTURES = binary_input("pictures", "BYTES", [3], RAW)
IMAGES = binary_input("images", "UINT8", [3, *CHW], PIXELS)
BAD_INPUTS: list[tuple[Any, int, str]] = [
    (pictures_in_json(datatype="UINT8"), 400, "found 'pictures' 'UINT8', expected pictures BYTES"),
    (pictures_in_json(datatype="FP32"), 400, "found 'pictures' 'FP32'"),
    (pictures_in_json(datatype=None), 400, "pictures: expected a datatype"),
    (pictures_in_json(name="image"), 400, "found 'image' 'BYTES', expected pictures BYTES [N]"),
    (pictures_in_json(name=None), 400, "expected objects with a name"),
    (pictures_in_json(shape=[2]), 400, "the 2 elements of its shape"),
    (pictures_in_json(shape=[0]), 400, "N of at least 1"),
    (pictures_in_json(shape=[]), 400, "found the shape []"),
    (pictures_in_json(shape=[-3]), 400, "found the shape [-3]"),
    (pictures_in_json(shape=[3, 2]), 400, "found the shape [3,2]"),
    (pictures_in_json(shape=[1] * 900), 400, "found the shape [1,1,1,1,1,1,1,1,…]"),
    (pictures_in_json(shape=[3.0]), 400, "a list of integers"),
    (pictures_in_json(shape=[True]), 400, "a list of integers"),
    (pictures_in_json(shape=3), 400, "a list of integers"),
    (pictures_in_json(shape=[10_000]), 413, "10,000 images, at most 4"),
    (pictures_in_json(shape=[2**63]), 413, "images, at most 4"),
    (pictures_in_json(shape=[2**70, 2**70]), 400, "found the shape"),
    (pictures_in_json(data=["%"] * 3), 400, "pictures.0: not base64"),
    (pictures_in_json(data=[1, 2, 3]), 400, "pictures.0: found int"),
    (pictures_in_json(data="abc"), 400, "pictures: expected data as a list"),
    (pictures_in_json(data=None), 400, "found neither, expected data or the parameter"),
    (pictures_in_json(data=["", "", ""]), 422, "image 0 of 3"),
    (pictures_in_json(data=["AAAA"] * 3), 422, "image 0 of 3"),
    (pictures_in_json(parameters=[]), 400, "expected parameters as an object"),
    (pictures_in_json(parameters={"binary_data_size": 4}), 400, "found both"),
    (images_in_json(shape=[3, 3, 5, 6]), 400, "found the shape [3,3,5,6]"),
    (images_in_json(shape=[3, *CHW, 1]), 400, "found the shape"),
    (images_in_json(shape=[-1, *CHW]), 400, "found the shape [-1,"),
    (images_in_json(shape=[1, *CHW]), 400, "the 90 elements"),
    (images_in_json(data=[0.5] * 270), 400, "images: found float"),
    (images_in_json(data=[300] * 270), 400, "integers from 0 to 255"),
    (PICTURES, 400, "needs the header Inference-Header-Content-Length"),
]
BAD_BODIES: list[tuple[Json, int, str]] = [
    ({"inputs": []}, 400, "found 0 (none)"),
    ({}, 400, "found 0 (none)"),
    ({"inputs": {}}, 400, "inputs: found dict"),
    ({"inputs": [pictures_in_json()] * 2}, 400, "found 2 ('pictures', 'pictures')"),
    ({"inputs": [pictures_in_json(), images_in_json()]}, 400, "found 2 ('pictures', 'images')"),
    ({"inputs": [pictures_in_json()], "outputs": [{"name": "x"}]}, 400, "found 'x', expected"),
    ({"inputs": [pictures_in_json()], "outputs": [{"name": "class"}] * 2}, 400, "named twice"),
    ({"inputs": [pictures_in_json()], "outputs": [{}]}, 400, "expected objects with a name"),
    ({"inputs": [pictures_in_json()], "outputs": [{"name": "novel"}]}, 422, "novelty: the output"),
    ({"inputs": [pictures_in_json()], "id": 5}, 400, "id: expected a text"),
    ({"inputs": [pictures_in_json()], "id": "x" * 2000}, 400, "at most 1,000 characters"),
    ({"inputs": [pictures_in_json()], "parameters": {"binary_data_output": 1}}, 400, "true or"),
    (
        {
            "inputs": [pictures_in_json()],
            "outputs": [{"name": "class", "parameters": {"classification": 1}}],
        },
        400,
        "classification of class, expected that of probabilities",
    ),
    (
        {
            "inputs": [pictures_in_json()],
            "outputs": [{"name": "class", "parameters": {"shared_memory_region": "a"}}],
        },
        400,
        "shares no memory",
    ),
]
EXTRA = binary({"inputs": [PICTURES]}, RAW + b"x")
SHORT = binary({"inputs": [PICTURES]}, RAW[:-1])
BAD_BINARIES: list[tuple[dict[str, Any], str]] = [
    (EXTRA, "leave 1 bytes of the body"),
    (SHORT, f"is {len(RAW):,}, the body has {len(RAW) - 1:,} bytes for it"),
    (binary({"inputs": [{**PICTURES, "shape": [2]}]}, RAW), "after the last of 2 elements"),
    (binary({"inputs": [{**PICTURES, "shape": [4]}]}, RAW), "ends in the length of element 3 of 4"),
    (binary({"inputs": [PICTURES]}, b"\xff" * len(RAW)), "is to have 4,294,967,295 bytes"),
    (binary({"inputs": [{**IMAGES, "shape": [2, *CHW]}]}, PIXELS), "found 270 bytes, the shape"),
    (binary({"inputs": [IMAGES, PICTURES]}, PIXELS + RAW), "found 2 ('images', 'pictures')"),
    (binary({"inputs": [IMAGES, PICTURES]}, RAW), "the body has"),
    (binary({"inputs": [{**IMAGES, "parameters": {"binary_data_size": -1}}]}, PIXELS), "number"),
    (binary({"inputs": [{**IMAGES, "parameters": {"binary_data_size": True}}]}, PIXELS), "number"),
    (binary({"inputs": [{**IMAGES, "parameters": {"binary_data_size": 2**70}}]}, PIXELS), "is 1,"),
    ({**EXTRA, "headers": {HEADER: "99999"}}, "found 99,999, expected at most"),
    ({**EXTRA, "headers": {HEADER: "-1"}}, "found '-1', expected how many bytes"),
    ({**EXTRA, "headers": {HEADER: "1e2"}}, "found '1e2'"),
    ({**EXTRA, "headers": {HEADER: "10"}}, "the body is not JSON"),
    ({**EXTRA, "headers": {}}, "not JSON"),
    ({"content": b"", "headers": {}}, "the body is empty"),
    ({"content": b"\xff{}"}, "not JSON"),
    ({"content": b'{"inputs": "\xc3\x28"}'}, "not JSON"),
    ({"content": b"[" * 5000}, "not JSON"),
    ({"content": b"[]," * 30_000}, "values or more"),
    ({"content": b"7"}, "found int, expected"),
]


async def test_inputs_that_are_not_right_are_refused(http: httpx.AsyncClient) -> None:
    for tensor, status, message in BAD_INPUTS:
        await is_refused(http, {"json": {"inputs": [tensor]}}, status, message)


async def test_documents_that_are_not_right_are_refused(http: httpx.AsyncClient) -> None:
    for document, status, message in BAD_BODIES:
        await is_refused(http, {"json": document}, status, message)


async def test_bytes_that_do_not_add_up_are_refused(http: httpx.AsyncClient) -> None:
    for form, message in BAD_BINARIES:
        await is_refused(http, form, 400, message)


async def is_refused(
    http: httpx.AsyncClient, form: dict[str, Any], status: int, message: str
) -> None:
    refused = await http.post(INFER, **form)
    assert refused.status_code == status, (message, refused.text)
    assert list(refused.json()) == ["error"]
    assert message in refused.json()["error"]
    assert len(refused.content) < 1000
    assert tensors_of(await http.post(INFER, json={"inputs": [pictures_in_json()]}))


async def test_a_body_beyond_the_limit_is_413(http: httpx.AsyncClient) -> None:
    large = binary({"inputs": [PICTURES]}, bytes(LIMITS.max_body_bytes))
    refused = await http.post(INFER, **large)
    assert refused.status_code == 413 and "error" in refused.json()


async def test_what_a_body_becomes_is_counted_while_it_is_parsed(engine: Engine) -> None:
    """A document of 100 kB whose values would take more than there is room for."""
    settings = LIMITS.model_copy(update={"max_bytes_in_flight": 150_000})
    engine.admission.memory.limit = settings.max_bytes_in_flight
    app = create_app(settings, engine)
    document = {"inputs": [images_in_json(data=[0] * 8000)]}
    async with client(app) as http:
        refused = await http.post(INFER, json=document)
        assert refused.status_code == 503 and "bytes" in refused.json()["error"]
        assert engine.admission.memory.held == 0
        assert tensors_of(await http.post(INFER, json={"inputs": [images_in_json(1)]}))


SOME = st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=4)
NESTED = st.recursive(SOME, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
SOME_TENSOR = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["pictures", "images"]) | SOME,
        "datatype": st.sampled_from(["BYTES", "UINT8"]) | SOME,
        "shape": st.sampled_from([[1], [3], [1, 1], [1, *CHW], [3, *CHW]]) | NESTED,
    },
    optional={
        "data": st.just(pictures_in_json(1)["data"]) | st.lists(NESTED, max_size=4),
        "parameters": st.fixed_dictionaries(
            {}, optional={"binary_data_size": st.sampled_from([len(RAW), len(PIXELS)]) | SOME}
        )
        | SOME,
    },
)
SOME_OUTPUT = st.fixed_dictionaries(
    {"name": st.sampled_from(["probabilities", "class", "abstain", "members_used"]) | SOME},
    optional={
        "parameters": st.dictionaries(st.sampled_from(["binary_data", "classification"]), SOME)
    },
)
SOME_DOCUMENT = st.fixed_dictionaries(
    {"inputs": st.lists(SOME_TENSOR, min_size=1, max_size=2)},
    optional={
        "id": SOME,
        "outputs": st.lists(SOME_OUTPUT, max_size=3),
        "parameters": st.dictionaries(
            st.sampled_from(["mode", "coverage", "abstain", "deadline_ms", "timeout"]), NESTED
        ),
    },
)


BEHIND = st.sampled_from([b"", RAW, PIXELS]) | st.binary(max_size=30)
WRONG = st.sampled_from(["0", "1", "1000000"]) | st.text("0123456789-x", max_size=5)


async def test_no_request_is_the_server_s_fault(http: httpx.AsyncClient) -> None:
    loop = asyncio.get_running_loop()

    @settings(max_examples=150)
    @given(SOME_DOCUMENT, BEHIND, WRONG)
    def send(document: Json, behind: bytes, wrong: str) -> None:
        text = json.dumps(document).encode()
        for size in (str(len(text)), wrong):
            asked = {"content": text + behind, "headers": {HEADER: size}}
            asyncio.run_coroutine_threadsafe(answered(http, asked), loop).result(30)

    await asyncio.to_thread(send)


async def answered(http: httpx.AsyncClient, asked: dict[str, Any]) -> None:
    """Refuse an answer that says that the server has done wrong."""
    reply = await http.post(INFER, **asked)
    assert reply.status_code < 500 or "deadline" in reply.text, reply.text
    assert reply.status_code == 200 or list(reply.json()) == ["error"]
