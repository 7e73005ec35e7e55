"""HEIC pictures: read with the extra `heic`, within what their boxes and HEVC headers prove."""

import io
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from snapensemble.contracts.errors import ImageTooCostly, ImageTooLarge, InvalidImage
from snapensemble.contracts.pictures import heif
from snapensemble.contracts.pictures.cost import PictureCost, picture_cost
from snapensemble.contracts.pixels import SERVER_LIMITS, decode_image
from tests.attacks.avif import avif
from tests.factories import encoded, picture

pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra heic")


def heic(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, **options)
    return buffer.getvalue()


def scan(data: bytes) -> PictureCost:
    return picture_cost(data, SERVER_LIMITS, width=8, height=8)


def golomb(value: int) -> tuple[int, int]:
    length = (value + 1).bit_length()
    return value + 1, 2 * length - 1


def parameter_set(width: int, height: int) -> bytes:
    """A sequence parameter set that claims a size."""
    fields = [(0x4201, 16), (0, 4), (0, 3), (1, 1), (1, 96), golomb(0), golomb(1), golomb(width),
              golomb(height), (0, 1), golomb(0), golomb(0)]  # fmt: skip
    text = "".join(f"{value:0{count}b}" for value, count in fields)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def units(*each: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(unit)) + unit for unit in each)


SLICE = b"\x26\x01" + bytes(20)


def claiming(width: int, height: int, slices: int = 1, size: tuple[int, int] = (16, 16)) -> bytes:
    data = units(parameter_set(width, height), *[SLICE] * slices)
    return avif([(b"hvc1", data)], size=size, brand=b"heic")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (80, 104)])
def test_headers_say_what_is_written(mode: str, size: tuple[int, int]) -> None:
    image = picture(width=size[0], height=size[1], mode=mode).resize(size)
    data = heic(image, quality=-1, chroma=444)
    cost = scan(data)
    assert (cost.format, cost.width, cost.height) == ("HEIF", *size)
    found = decode_image(data, channels=3, height=size[1], width=size[0])
    expected = decode_image(encoded(image), channels=3, height=size[1], width=size[0])
    assert np.abs(found.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_picture_comes_upright(orientation: int) -> None:
    image = Image.new("RGB", (128, 64), "black")
    image.paste("white", (0, 0, 64, 64))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pillow_heif.register_heif_opener()  # the one way to write what turns the picture
    turned = encoded(image, "HEIF", exif=exif.tobytes(), quality=95)
    assert (b"irot" in turned) is (orientation != 1)
    found = decode_image(turned, channels=3, height=32, width=32, fit="stretch")
    expected = decode_image(
        encoded(image, exif=exif), channels=3, height=32, width=32, fit="stretch"
    )
    assert np.abs(found.astype(int) - expected).mean() < 8


@pytest.mark.parametrize(
    ("words", "build"),
    [
        ("81.0 megapixels", lambda: claiming(9_000, 9_000)),
        ("81.0 megapixels", lambda: claiming(16, 16, size=(9_000, 9_000))),
        ("of processor time", lambda: claiming(3_000, 3_000, slices=40)),
        ("HEVC units", lambda: claiming(16, 16, slices=1_500)),
    ],
)
def test_what_costs_too_much_is_refused(words: str, build: Callable[[], bytes]) -> None:
    with pytest.raises((ImageTooCostly, ImageTooLarge), match=words):
        scan(build())


def test_data_without_parameter_set_or_picture_is_refused() -> None:
    for data in (units(SLICE), units(parameter_set(16, 16)), units(SLICE)[:-3]):
        with pytest.raises(InvalidImage, match="HEVC data"):
            scan(avif([(b"hvc1", data)], brand=b"heic"))


def test_without_the_extra_its_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heif, "READS_HEIC", False)
    with pytest.raises(InvalidImage, match=r"install snapensemble\[heic\]"):
        scan(heic(picture(width=64, height=64)))


HONEST = heic(picture(width=64, height=48))


@given(random=st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_changed_bytes_are_refused_or_decoded_and_nothing_else(random: Random) -> None:
    changed = bytearray(HONEST)
    for _ in range(random.randint(1, 5)):
        changed[random.randrange(len(changed))] = random.randrange(256)
    try:
        assert decode_image(bytes(changed), channels=3, height=8, width=8).shape == (3, 8, 8)
    except InvalidImage as error:
        assert str(error)
