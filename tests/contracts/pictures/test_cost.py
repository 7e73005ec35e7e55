"""The rules by which the bytes of a picture bound what decoding it costs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapensemble.contracts.errors import ImageTooCostly, InvalidImage, TakesTime
from snapensemble.contracts.pictures.cost import FORMATS, PictureCost, picture_cost
from snapensemble.contracts.pictures.limits import PictureLimits
from snapensemble.contracts.pixels import SERVER_LIMITS, decode_image
from tests.attacks.pictures import chunk, jpeg_claiming, png, saved, striped, tables_of_codes
from tests.factories import encoded, picture


def cost(data: bytes, limits: PictureLimits = SERVER_LIMITS, side: int = 32) -> PictureCost:
    return picture_cost(data, limits, width=side, height=side)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_scan_sees_format_and_size_as_the_decoder_does(kind: str) -> None:
    found = cost(encoded(picture(width=37, height=21), kind))
    assert (found.format, found.width, found.height) == (kind, 37, 21)
    assert 0 < found.seconds < 0.1 and found.memory < 1 << 21


def test_ordinary_photographs_are_cheap_and_large_ones_are_not() -> None:
    assert cost(jpeg_claiming(4_000, 3_000, mode="RGB") + bytes(3_000_000)).seconds < 0.1
    assert 0.1 < cost(jpeg_claiming(6_300, 6_300, mode="RGB") + bytes(9_000_000)).seconds < 0.9


def test_every_scan_of_a_jpeg_costs_a_pass_over_its_pixels() -> None:
    few, many = (
        cost(jpeg_claiming(4_000, 4_000, scans=scans, progressive=True)) for scans in (1, 51)
    )
    assert many.seconds > few.seconds + 50 * 250_000 * 10e-9


def test_a_reduced_jpeg_takes_less_memory_than_its_size() -> None:
    data = jpeg_claiming(5_000, 5_000, mode="RGB")
    assert cost(data, side=32).memory < 20 << 20 < cost(data, side=2_000).memory


def test_what_lies_behind_the_pixels_is_counted_as_what_lies_before() -> None:
    chunks = chunk(b"vpAg", b"") * 20_000
    data = png(8, 8)
    with pytest.raises(ImageTooCostly, match="chunks"):
        cost(data[:-12] + chunks + data[-12:])


def test_higher_limits_accept_more_of_everything() -> None:
    data = png(7_000, 7_000)
    with pytest.raises(InvalidImage, match="49.0 megapixels"):
        cost(data)
    assert cost(data, SERVER_LIMITS.times(2)).width == 7_000
    with pytest.raises(ImageTooCostly, match="of processor time"):
        cost(png(6_000, 6_000, colour=6))
    assert cost(png(6_000, 6_000, colour=6), SERVER_LIMITS.times(2)).width == 6_000


def test_a_refusal_says_what_was_found_what_is_accepted_and_what_to_do() -> None:
    with pytest.raises(
        ImageTooCostly, match=r"2,001 segments|1,001 segments.*1,000.*save it again"
    ):
        cost(saved("JPEG")[:2] + b"\xff\xe0\0\2" * 2_000 + saved("JPEG")[2:])


def test_memory_above_the_limit_is_refused() -> None:
    with pytest.raises(ImageTooCostly, match=r"MiB \(PNG"):
        cost(png(1, 30_000_000, pixels=b""))


def test_a_picture_beyond_ones_patience_is_handed_back_with_its_cost() -> None:
    with pytest.raises(TakesTime) as caught:
        decode_image(png(3_000, 3_000, colour=6), channels=3, height=8, width=8, patience_s=0.05)
    assert 0.05 < caught.value.seconds < 0.9 and caught.value.memory > 36_000_000


def test_data_that_turns_out_slow_is_handed_back_too_and_refused_in_the_end() -> None:
    slow = png(100, 100, pixels=tables_of_codes(4 << 20))
    assert cost(slow).seconds < 0.1
    with pytest.raises(TakesTime):
        decode_image(slow, channels=3, height=8, width=8, patience_s=0.1)
    with pytest.raises(ImageTooCostly, match="made to be slow"):
        limits = PictureLimits(max_seconds=0.2)
        decode_image(slow, channels=3, height=8, width=8, limits=limits)


def test_a_polyglot_is_opened_as_what_it_was_scanned_as() -> None:
    with pytest.raises(InvalidImage, match="BMP"):
        cost(b"BM" + saved("PNG"))


def test_strips_that_lie_on_one_another_are_refused() -> None:
    with pytest.raises(ImageTooCostly, match="lie on one another"):
        cost(striped(100, 100, codec=5, strips=100, rows=1, strip=bytes(5_000)))


@pytest.mark.parametrize("factor", [0, -1])
def test_limits_are_positive(factor: int) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        SERVER_LIMITS.times(factor)


@given(st.binary(max_size=200), st.sampled_from(FORMATS), st.integers(0, 60))
@settings(max_examples=300)
def test_any_bytes_have_a_cost_or_a_reason(tail: bytes, kind: str, kept: int) -> None:
    data = encoded(picture(width=9, height=9), kind)[:kept] + tail
    try:
        assert cost(data).seconds >= 0
    except InvalidImage as error:
        assert str(error)
