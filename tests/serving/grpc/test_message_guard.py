"""Messages of many fields are refused before they are parsed; all others are as they were."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("grpc", reason="gRPC is not tried: pip install 'snapensemble[grpc]'")

from google.protobuf.message import DecodeError

from snapensemble.serving.errors import MalformedBody
from snapensemble.serving.grpc import message_guard
from snapensemble.serving.grpc.message_guard import MAX_FIELDS, check_fields
from snapensemble.serving.grpc.messages import CLASSES, parsed
from tests.serving.grpc.calling import forms, raw_pictures, request, tensor

pytestmark = pytest.mark.extra

REQUEST = CLASSES["ModelInferRequest"]


def number(value: int) -> bytes:
    """As it is written in a message: seven bits in each byte, the lowest first."""
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + number(value >> 7)


def field(place: int, content: bytes) -> bytes:
    return number(place << 3 | 2) + number(len(content)) + content


MANY = MAX_FIELDS + 1
INSIDE = {
    "inputs": field(5, b"") * MANY,
    "outputs": field(6, b"") * MANY,
    "parameters": field(4, b"") * MANY,
    "raw_input_contents": field(7, b"") * MANY,
    "parameters of an input": field(5, field(4, b"") * MANY),
    "pictures of an input": field(5, field(5, field(8, b"") * MANY)),
    "numbers one by one": field(5, field(5, b"\x20\x01" * MANY)),
    "a shape": field(5, field(3, b"\x01" * 2 * MANY)),
    "numbers of 64 bits": field(5, field(5, field(3, b"\x01" * 2 * MANY))),
    "unknown ones": number(100 << 3) + b"\x01" + (number(100 << 3) + b"\x01") * MANY,
    "in several inputs": field(5, field(4, b"") * (MANY // 2)) * 3,
}


@pytest.mark.parametrize("raw", INSIDE.values(), ids=INSIDE)
def test_a_message_of_many_fields_is_refused_before_it_is_parsed(raw: bytes) -> None:
    assert REQUEST.FromString(raw)
    with pytest.raises(MalformedBody, match="more than 10,000 fields"):
        check_fields(raw, REQUEST.DESCRIPTOR)
    with pytest.raises(MalformedBody, match="more than 10,000 fields"):
        parsed("ModelInferRequest", raw)


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
def test_large_messages_of_few_fields_are_parsed(kind: int) -> None:
    assert parsed("ModelInferRequest", forms()[kind].SerializeToString()) == forms()[kind]
    large = [
        raw_pictures(id="x" * 10**6),
        request(tensor("images", "UINT8", [1], uint_contents=[200] * 10**6)),
        request(tensor("images", "FP32", [1], fp32_contents=[0.5] * 10**6)),
        request(tensor("pictures", "BYTES", [1], bytes_contents=[bytes(10**5)] * 64)),
    ][kind]
    assert parsed("ModelInferRequest", large.SerializeToString()) == large


def is_refused(raw: bytes) -> bool:
    try:
        check_fields(raw, REQUEST.DESCRIPTOR)
    except MalformedBody:
        return True
    return False


def test_what_is_cut_off_is_refused_exactly_where_the_parser_refuses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(message_guard, "LEAST", 0)  # so that it looks at small messages, too
    small = request(
        tensor("pictures", "BYTES", [2, 300], bytes_contents=[b"a", b"b" * 200]),
        tensor("images", "FP32", [1], fp32_contents=[0.5, 2.5]),
        raw_input_contents=[b"x" * 20],
        id="me",
    ).SerializeToString()
    for cut in range(len(small) + 1):
        try:
            REQUEST.FromString(small[:cut])
        except DecodeError:
            assert is_refused(small[:cut]), cut
        else:
            assert not is_refused(small[:cut]), cut


@given(st.binary(max_size=60))
def test_bytes_of_any_kind_are_refused_or_not_and_nothing_else_happens(raw: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(message_guard, "LEAST", 0)
        assert is_refused(raw) in (True, False)
