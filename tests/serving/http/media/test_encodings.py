"""Decoders: what was packed comes out, what was not is refused, in short steps."""

import gzip
import random
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.serving.errors import BodyTooLarge, MalformedBody, UnsupportedEncoding
from snapensemble.serving.http.media.encodings import (
    CODINGS,
    FREE,
    FREE_STREAMS,
    MAX_RATIO,
    SLACK,
    STEP_OUT,
    STREAM,
    Decoder,
    coding_of,
)
from tests.serving.http.media.packing import PACK

pytestmark = pytest.mark.extra

NOISE = random.Random(0).randbytes(100_000)
every_coding = pytest.mark.parametrize("name", PACK)
several = pytest.mark.parametrize("name", [name for name in PACK if not CODINGS[name].is_one])
# Of some noise, some zeros and more noise, so that sizes fall on both sides of a step.
sizes = st.tuples(st.integers(0, 70_000), st.integers(0, 200_000), st.integers(0, 300))
places = st.lists(st.integers(0, 10**6), max_size=5)


def body_of(size: tuple[int, int, int]) -> bytes:
    noise, zeros, more = size
    return NOISE[:noise] + bytes(zeros) + NOISE[:more]


def test_zstd_is_tried_here_too() -> None:
    pytest.importorskip("backports.zstd", reason="zstd is not tried: `pip install backports.zstd`")
    assert list(PACK) == list(CODINGS) == ["gzip", "deflate", "zstd"]


def unpacked(name: str, *chunks: bytes) -> bytes:
    decoder, pieces = Decoder(CODINGS[name]), []
    for chunk in chunks:
        decoder.give(chunk)
        while (piece := decoder.step()) is not None:
            assert len(piece) <= STEP_OUT
            pieces.append(piece)
    decoder.finish()
    return b"".join(pieces)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(ends)]


@every_coding
@given(sizes, places)
def test_what_was_packed_comes_out_however_it_is_cut(
    name: str, size: tuple[int, int, int], places: list[int]
) -> None:
    assert unpacked(name, *cut(PACK[name](body_of(size)), places)) == body_of(size)


@several
@given(st.lists(sizes, min_size=1, max_size=4), places)
def test_members_follow_each_other(
    name: str, members: list[tuple[int, int, int]], places: list[int]
) -> None:
    parts = list(map(body_of, members))
    packed = b"".join(map(PACK[name], parts))
    assert unpacked(name, *cut(packed, places)) == b"".join(parts)


@every_coding
@given(st.binary(max_size=300), places)
def test_bytes_of_another_kind_are_a_problem_of_the_sender(
    name: str, data: bytes, places: list[int]
) -> None:
    try:
        unpacked(name, *cut(data, places))
    except MalformedBody as error:
        assert CODINGS[name].name in str(error)
    else:
        assert not data or name == "zstd", "a frame that may be skipped begins with any 4 bits"


@every_coding
@given(sizes, st.integers(0, 10**6))
def test_a_stream_that_is_cut_off_is_refused(
    name: str, size: tuple[int, int, int], place: int
) -> None:
    packed = PACK[name](body_of(size))
    with pytest.raises(MalformedBody, match="cut off"):
        unpacked(name, packed[: 1 + place % (len(packed) - 1)])


@every_coding
@pytest.mark.parametrize("garbage", [b"\0", b"\r\n", b"garbage", bytes(512), NOISE[:40_000]])
def test_nothing_else_follows(name: str, garbage: bytes) -> None:
    for chunks in ([PACK[name](NOISE) + garbage], [PACK[name](NOISE), garbage]):
        with pytest.raises(MalformedBody, match="follows its end|cut off"):
            unpacked(name, *chunks)


def test_a_second_stream_of_deflate_is_something_that_follows() -> None:
    with pytest.raises(MalformedBody, match="something follows its end"):
        unpacked("deflate", zlib.compress(b"one") + zlib.compress(b"two"))


def test_deflate_is_what_the_rfc_calls_so() -> None:
    packer = zlib.compressobj(wbits=-15)
    with pytest.raises(MalformedBody, match="as zlib: .*incorrect header"):
        unpacked("deflate", packer.compress(b"bare") + packer.flush())


def test_a_damaged_member_is_found_by_its_checksum() -> None:
    packed = bytearray(gzip.compress(NOISE, compresslevel=0))
    packed[5_000] ^= 1
    with pytest.raises(MalformedBody, match="incorrect data check"):
        unpacked("gzip", bytes(packed))


@every_coding
def test_a_bomb_goes_off_before_it_is_large(name: str) -> None:
    bomb = PACK[name](bytes(2**27))
    decoder, pieces = Decoder(CODINGS[name]), 0
    decoder.give(bomb)
    with pytest.raises(BodyTooLarge, match="200 times its size"):
        while decoder.step() is not None:
            pieces += 1
    assert decoder.unpacked <= MAX_RATIO * min(len(bomb), decoder.packed) + FREE + STEP_OUT
    assert decoder.unpacked < 2**26 and pieces > 1


@pytest.mark.parametrize(
    "unit",
    [
        gzip.compress(b"", mtime=0),
        gzip.compress(b"1", mtime=0),
        gzip.compress(b"", 0)[:10] + b"\0\0\0\xff\xff" * 100,  # empty blocks
        b"\x1f\x8b\x08\x10" + bytes(6) + b"a comment without an end" * 100,
    ],
)
def test_a_body_that_is_larger_packed_costs_no_more_than_its_slack(unit: bytes) -> None:
    decoder = Decoder(CODINGS["gzip"])
    decoder.give(unit + (unit if unit.endswith(b"\0\0") else unit[14:]) * (2**20 // len(unit)))
    with pytest.raises(MalformedBody, match="without Content-Encoding|cannot be unpacked"):
        while decoder.step() is not None:
            pass
    assert decoder.packed <= 2 * SLACK


@several
def test_streams_have_some_kilobytes_each(name: str) -> None:
    assert unpacked(name, PACK[name](b"short") * FREE_STREAMS) == b"short" * FREE_STREAMS
    assert unpacked(name, PACK[name](NOISE[:STREAM]) * 200) == NOISE[:STREAM] * 200
    with pytest.raises(MalformedBody, match="64 streams have 320 bytes"):
        unpacked(name, PACK[name](b"short") * (FREE_STREAMS + 1))


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("", None), ("identity", None), (" Identity , ", None), ("gzip", "gzip"),
        ("GZip", "gzip"), ("x-gzip", "gzip"), ("identity, gzip", "gzip"), (" deflate", "zlib"),
    ],
)  # fmt: skip
def test_a_header_names_a_coding(header: str, name: str | None) -> None:
    coding = coding_of(header)
    assert (coding.name if coding else None) == name


@pytest.mark.parametrize("header", ["br", "gzip, gzip", "br, gzip", "gzip;q=1", "x-deflate", "*"])
def test_other_headers_are_answered_with_what_is_accepted(header: str) -> None:
    with pytest.raises(UnsupportedEncoding) as caught:
        coding_of(header)
    assert header in str(caught.value) and caught.value.accepted == tuple(CODINGS)


@given(st.text())
def test_no_header_is_a_defect(header: str) -> None:
    try:
        coding = coding_of(header)
    except UnsupportedEncoding:
        return
    assert coding is None or coding in CODINGS.values()
