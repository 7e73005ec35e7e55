import struct
import zlib
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from snapensemble.contracts.errors import ImageTooLarge, InvalidImage
from snapensemble.contracts.pictures.cost import FORMATS
from snapensemble.contracts.pixels import decode_image
from tests.factories import encoded, picture

# Damaged metadata makes Pillow warn; the pixels decide here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def decode(data: bytes, channels: int = 3, height: int = 6, width: int = 5) -> NDArray[np.uint8]:
    return decode_image(data, channels=channels, height=height, width=width)


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of under a hundred bytes whose header claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_a_lossless_picture_of_the_right_size_keeps_its_pixels(kind: str) -> None:
    image = picture()
    options = {"lossless": True} if kind == "WEBP" else {}
    expected = np.asarray(image).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode(encoded(image, kind, **options)), expected)


def test_a_jpeg_comes_close() -> None:
    image = Image.new("RGB", (64, 64), (200, 100, 50))
    pixels = decode(encoded(image, "JPEG"), height=64, width=64)
    assert np.abs(pixels.reshape(3, -1).mean(axis=1) - [200, 100, 50]).max() < 3


def test_colour_becomes_grey_where_one_channel_is_asked() -> None:
    image = picture()
    expected = np.asarray(image.convert("L"))[None]
    np.testing.assert_array_equal(decode(encoded(image), channels=1), expected)


def test_grey_becomes_three_equal_channels() -> None:
    pixels = decode(encoded(picture(mode="L")))
    np.testing.assert_array_equal(pixels[0], pixels[1])
    np.testing.assert_array_equal(pixels[0], pixels[2])


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    wide = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    pixels = decode(encoded(Image.fromarray(wide)), channels=1, height=1, width=5)
    assert pixels[0, 0].tolist() == [0, 0, 1, 128, 255]


def test_a_palette_is_looked_up() -> None:
    image = picture().quantize(8)
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode(encoded(image)), expected)


def test_cmyk_becomes_rgb() -> None:
    image = picture(mode="CMYK")
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode(encoded(image, "TIFF")), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white(mode: str) -> None:
    image = picture(mode=mode)
    image.putalpha(0)
    assert (decode(encoded(image)) == 255).all()


def test_a_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (5, 6), 0)
    image.putpalette([10, 20, 30] * 2)
    assert (decode(encoded(image, "PNG", transparency=0)) == 255).all()


def test_the_first_frame_counts() -> None:
    first, second = Image.new("L", (5, 6), 0), Image.new("L", (5, 6), 255)
    data = encoded(first, "GIF", save_all=True, append_images=[second])
    assert (decode(data) == 0).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_gives_the_upright_picture(orientation: int) -> None:
    upright = picture(width=5, height=6)
    # How a camera stores it: the inverse of what a viewer has to do.
    stored_as = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }[orientation]
    stored = upright
    for method in stored_as:
        stored = stored.transpose(method)
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = np.asarray(upright).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode(encoded(stored, "PNG", exif=exif)), expected)


def test_a_wide_picture_loses_both_ends_evenly() -> None:
    pixels = np.zeros((4, 12, 3), dtype=np.uint8)
    pixels[:, :4], pixels[:, 8:] = 255, 255
    middle = decode(encoded(Image.fromarray(pixels)), height=4, width=4)
    assert (middle == 0).all()


@given(
    width=st.integers(1, 70), height=st.integers(1, 70),
    to_width=st.integers(1, 40), to_height=st.integers(1, 40),
)  # fmt: skip
@settings(max_examples=60)
def test_any_size_becomes_the_size_asked(
    width: int, height: int, to_width: int, to_height: int
) -> None:
    data = encoded(Image.new("RGB", (width, height), (9, 8, 7)))
    pixels = decode(data, height=to_height, width=to_width)
    assert pixels.shape == (3, to_height, to_width)
    assert pixels.reshape(3, -1).T.tolist() == [[9, 8, 7]] * (to_width * to_height)


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = png_claiming(10_000, 6_000)
    assert len(bomb) < 200
    with pytest.raises(ImageTooLarge, match="10000 x 6000 = 60.0 megapixels"):
        decode(bomb)


def tiled_tiff(tile: int) -> bytes:
    """An 8 x 8 grey TIFF that keeps its pixels in one tile of any size, deflated."""
    pixels = zlib.compress(bytes(tile * tile))
    tags = [(256, 8), (257, 8), (258, 8), (259, 8), (262, 1), (277, 1), (322, tile), (323, tile)]
    tags += [(324, 8 + 2 + 12 * 10 + 4), (325, len(pixels))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0\0\0\0" + pixels


def test_a_tile_far_larger_than_its_picture_is_refused() -> None:
    assert decode(tiled_tiff(16), height=8, width=8).shape == (3, 8, 8)
    with pytest.raises(ImageTooLarge, match="8000 x 8000"):
        decode(tiled_tiff(8000))


def test_a_reduced_picture_is_antialiased() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    reduced = decode(encoded(Image.fromarray(pixels)), height=10, width=10)
    # The triangle filter of a bilinear reduction by s reaches s pixels to each side.
    distance = np.abs(np.arange(320)[None] + 0.5 - (np.arange(10)[:, None] + 0.5) * 32) / 32
    weights = np.maximum(1 - distance, 0)
    weights /= weights.sum(axis=1, keepdims=True)
    exact = np.einsum("yh,hwc,xw->cyx", weights, pixels.astype(float), weights)
    assert np.abs(reduced - exact).max() <= 1.0


def test_a_large_jpeg_is_read_at_a_fraction_without_losing_its_look() -> None:
    y, x = np.mgrid[0:256, 0:256]
    stripes = (127 + 120 * np.cos(2 * np.pi * (x + y) / 28)).astype(np.uint8)
    image = Image.fromarray(np.stack([stripes] * 3, axis=-1))
    exact = decode(encoded(image), height=32, width=32)
    found = decode(encoded(image, "JPEG", quality=95), height=32, width=32)
    # Read at an eighth instead of a quarter, the stripes would differ by 14 on average.
    assert np.abs(found.astype(int) - exact).mean() < 7


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"hello, I am text", "not an image: 16 bytes"),
        (b"%PDF-1.4", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidImage, match=message):
        decode(data)


def test_a_format_outside_the_list_is_refused() -> None:
    with pytest.raises(InvalidImage, match="not an image"):
        decode(encoded(picture(), "PPM"))


def test_float_pixels_are_refused_with_the_reason() -> None:
    data = encoded(Image.fromarray(np.zeros((6, 5), dtype=np.float32)), "TIFF")
    with pytest.raises(InvalidImage, match="float pixels have no agreed range"):
        decode(data)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_picture_is_refused_or_decoded_but_never_anything_else(kind: str) -> None:
    data = encoded(picture(width=40, height=40), kind)
    for length in range(0, len(data), 7):
        try:
            assert decode(data[:length]).shape == (3, 6, 5)
        except InvalidImage:
            pass


@given(st.sampled_from(FORMATS), st.randoms())
@settings(max_examples=150)
def test_damaged_bytes_are_refused_or_decoded_but_never_anything_else(
    kind: str,
    random: Random,
) -> None:
    data = bytearray(encoded(picture(width=20, height=20), kind))
    for _ in range(random.randint(1, 8)):
        data[random.randrange(len(data))] = random.randrange(256)
    try:
        assert decode(bytes(data)).shape == (3, 6, 5)
    except InvalidImage:
        pass


def test_a_contiguous_array_comes_out() -> None:
    assert decode(encoded(picture())).flags["C_CONTIGUOUS"]
    assert decode(encoded(picture(mode="L")), channels=1).flags["C_CONTIGUOUS"]
