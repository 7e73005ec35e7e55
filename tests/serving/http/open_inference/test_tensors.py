"""The codec: every size that a request states is compared with what is there.

Shapes: N images, C channels, H height, W width.
"""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.serving.errors import InvalidTensor, MalformedBody, ServingError, TooManyImages
from snapensemble.serving.http.adapters.open_inference.document import (
    asked_of,
    header_length,
    split,
)
from snapensemble.serving.http.adapters.open_inference.inputs import Tensor, elements_of, images_of
from tests.serving.http.open_inference.asking import serialized

SHAPE = (1, 2, 3)
ELEMENTS = st.lists(st.binary(max_size=20), min_size=1, max_size=5)
DIMENSIONS = st.integers(-3, 6) | st.sampled_from([-(2**63), 2**31, 2**32, 2**63, 2**64, 10**30])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def pictures(raw: bytes, shape: list[int]) -> Any:
    return images_of([Tensor("pictures", "BYTES", shape, memoryview(raw))], SHAPE, limit=5)


def images(raw: bytes | None, shape: list[int], values: Any = None) -> Any:
    view = None if raw is None else memoryview(raw)
    return images_of([Tensor("images", "UINT8", shape, view, values)], SHAPE, limit=5)


@given(ELEMENTS)
def test_pictures_come_out_as_they_went_in(elements: list[bytes]) -> None:
    raw = serialized(elements)
    assert pictures(raw, [len(elements)]) == elements
    assert pictures(raw, [len(elements), 1]) == elements


@given(ELEMENTS, st.data())
def test_pictures_whose_bytes_do_not_add_up_are_refused(
    elements: list[bytes], data: st.DataObject
) -> None:
    raw = serialized(elements)
    end = data.draw(st.integers(0, len(raw) - 1))
    for wrong in (raw[:end], raw + b"\0"):
        with pytest.raises(InvalidTensor):
            elements_of(memoryview(wrong), len(elements), "pictures")


@given(st.binary(max_size=60), st.integers(0, 5))
def test_any_bytes_are_elements_or_refused(raw: bytes, count: int) -> None:
    try:
        found = elements_of(memoryview(raw), count, "pictures")
    except InvalidTensor:
        return
    assert serialized(found) == raw and len(found) == count


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_pixels_come_out_as_they_went_in_without_a_copy(count: int, seed: int) -> None:
    shape = [count, *SHAPE]
    expected = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    raw = expected.tobytes()
    found = images(raw, shape)
    np.testing.assert_array_equal(found, expected)
    assert np.shares_memory(found, np.frombuffer(raw, np.uint8))
    for values in (expected.tolist(), expected.ravel().tolist()):
        np.testing.assert_array_equal(images(None, shape, values), expected)


SHAPES = st.lists(DIMENSIONS, max_size=6) | DIMENSIONS.map(lambda count: [count, *SHAPE])


@given(SHAPES, st.integers(0, 40) | st.sampled_from([6, 12, 18, 24, 30]))
def test_any_shape_is_that_of_the_data_or_refused(shape: list[int], size: int) -> None:
    try:
        found = images(bytes(size), shape)
    except (InvalidTensor, TooManyImages):
        assert [*shape[1:], 6 * shape[0] if shape else 0] != [*SHAPE, size] or shape[
            0
        ] not in range(1, 6)
        return
    assert found.shape == tuple(shape) and found.size == size


@pytest.mark.parametrize(
    "values",
    [
        [0] * 5, [0] * 7, [[[0, 0, 0], [0, 0, 0]]], [[0, 0, 0], [0, 0, 0]],
        [[[[0, 0], [0, 0, 0, 0]]]],
        [256] * 6, [-1] * 6, [10**400] * 6, [True] * 6, [1.0] * 6, ["1"] * 6, [None] * 6, [],
        [[[[0, 0, 0]]], [[[0, 0, 0]]]], [[], [], [], [], [], []], [[0], 1, 2, 3, 4, 5],
        [0, [0], 1, 2, 3, 4],
    ],
)  # fmt: skip
def test_data_that_is_no_pixels_of_its_shape_is_refused(values: Any) -> None:
    with pytest.raises(InvalidTensor, match="images: "):
        images(None, [1, *SHAPE], values)


@given(st.dictionaries(st.sampled_from(["id", "inputs", "outputs", "parameters"]), JSON), JSON)
def test_any_document_is_understood_or_refused(document: Any, other: Any) -> None:
    for each in (document, other):
        try:
            asked = asked_of(json.dumps(each).encode(), None, most=1000)
            images_of(asked.inputs, SHAPE, limit=5)
        except ServingError:
            pass


TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["pictures", "images", "x"]) | JSON,
        "datatype": st.sampled_from(["BYTES", "UINT8", "FP32"]) | JSON,
        "shape": st.lists(DIMENSIONS, max_size=5) | st.just([1, *SHAPE]) | JSON,
        "data": st.lists(st.integers(-1, 256), max_size=7) | JSON,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 40) | JSON}),
    },
)


@given(
    st.lists(TENSOR, max_size=2),
    st.lists(st.fixed_dictionaries({"name": st.text(max_size=5)}, optional={"parameters": JSON})),
    st.none() | st.binary(max_size=40),
)
def test_any_tensors_are_understood_or_refused(
    inputs: Any, outputs: Any, behind: bytes | None
) -> None:
    text = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
    try:
        asked = asked_of(text, None if behind is None else memoryview(behind), most=1000)
        found = images_of(asked.inputs, SHAPE, limit=5)
    except ServingError:
        return
    assert 1 <= len(found) <= 5


@pytest.mark.parametrize("body", [b"\xff\xfe{}", b"{", b"[" * 900, b"", b'{"a": NaN}', b"\x80"])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        asked_of(body, None, most=1000)


def test_more_values_than_a_request_may_have_are_not_parsed() -> None:
    with pytest.raises(MalformedBody, match=r"1,001 values or more.*as bytes"):
        asked_of(b"[" + b"[]," * 500 + b"]", None, most=1000)


@pytest.mark.parametrize("value", [b"", b"-1", b"1e3", b"+5", b" 5", b"0x5", b"9" * 13, b"\xb2"])
def test_a_length_that_is_no_number_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidTensor, match="Inference-Header-Content-Length: found"):
        header_length(value)


def test_a_body_is_split_where_the_header_says() -> None:
    text, behind = split(b"{}abc", 2)
    assert text == b"{}" and bytes(behind or b"") == b"abc"
    assert split(b"{}", None) == (b"{}", None)
    with pytest.raises(InvalidTensor, match="found 6, expected at most the 5 bytes"):
        split(b"{}abc", 6)
