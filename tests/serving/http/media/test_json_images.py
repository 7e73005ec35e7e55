"""Documents of pictures: right answers, at a cost that their size bounds."""

import base64
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

import snapensemble.serving.http.media.texts as texts_module
from snapensemble.serving.errors import MalformedBody, TooManyImages
from snapensemble.serving.http.media.json_guard import MAX_VALUES
from snapensemble.serving.http.media.json_images import GROWTH, pictures_of_json


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=8), st.booleans(), st.integers(1, 20))
def test_pictures_come_out_as_they_went_in(
    pictures: list[bytes], escaped: bool, quads: int
) -> None:
    texts = [base64.b64encode(picture).decode() for picture in pictures]
    body = json.dumps({"images": texts}).encode()
    if escaped:  # as PHP writes it
        body = body.replace(b"/", b"\\/")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts_module, "SLICE", 4 * quads)
        assert pictures_of_json(body, limit=8) == pictures


def test_one_too_many_is_told_with_their_number() -> None:
    body = json.dumps({"images": ["aGk="] * 9}).encode()
    with pytest.raises(TooManyImages, match="9 images, at most 8"):
        pictures_of_json(body, limit=8)


SIZE = 2**20


def filled(unit: bytes) -> bytes:
    return b'{"images": [' + b",".join([unit] * (SIZE // (len(unit) + 1))) + b"]}"


@pytest.mark.parametrize(
    "body",
    [
        filled(b"{}"), filled(b"[]"), filled(b'{"":0}'), filled(b"1.1"), filled(b"null"),
        filled(b'"aaaaaaaa"'), b"[" * SIZE, b'{"a":' * (SIZE // 5), b"[" + b"1" * SIZE + b"]",
        b"{" + b",".join(b'"%x":0' % i for i in range(SIZE // 11)) + b"}",
        b'{"images": ["' + b"\\u0041" * (SIZE // 6), b'["' + b"\\ud800" * (SIZE // 6) + b'"]',
        b'"' + b"\xf0\x9f\x98\x80" * (SIZE // 4) + b'"',
        b'{"images": ["' + b"A" * SIZE + b'\\ud83d\\ude00"]}',
        b'{"images": ["' + b"A" * SIZE + b'\xf0\x9f\x98\x80"]}',
        b'{"images": ["' + b"A" * SIZE + b'\\u0100"]}',
        b'{"images": ["' + b"A" * SIZE + b'\\u00ff"]}',
    ],
)  # fmt: skip
def test_no_document_takes_more_memory_than_is_held_for_it(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(MalformedBody):
            pictures_of_json(body, limit=64)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most <= GROWTH * len(body) + 200 * MAX_VALUES
