"""A picture is the same one as a file, as bytes, as a Pillow image and as an array."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from snapensemble.contracts.errors import InvalidConfig, InvalidData, InvalidImage
from snapensemble.contracts.pixels import ImageContract
from snapensemble.pictures import as_several, encoded, loaded, name_of
from tests.factories import picture

FRAMES = [
    ImageContract(channels=3, height=6, width=5, mean=(0.5,) * 3, std=(0.25,) * 3, fit="pad"),
    ImageContract(channels=1, height=4, width=9, mean=(0.5,), std=(0.25,)),
]
MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV",
         "LAB", "I;16"]  # fmt: skip


def in_mode(mode: str, seed: int, width: int, height: int) -> Image.Image:
    """A picture of random pixels in a mode."""
    rng = np.random.default_rng(seed)
    rgba = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8))
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65_536, (height, width), dtype=np.uint16))
    if mode == "PA":
        return rgba.convert("P").convert("PA")
    if mode == "LAB":
        return Image.merge("LAB", rgba.split()[:3])
    if mode in ("RGBa", "La"):
        return (rgba if mode == "RGBa" else rgba.convert("LA")).convert(mode)
    return (rgba if mode == "RGBA" else rgba.convert("RGB")).convert(mode)


@given(
    mode=st.sampled_from(MODES),
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(1, 24),
    height=st.integers(1, 24),
    orientation=st.integers(1, 8),
    frame=st.sampled_from(FRAMES),
)
def test_pixels_answered_here_are_those_that_a_server_gets(
    mode: str, seed: int, width: int, height: int, orientation: int, frame: ImageContract
) -> None:
    image = in_mode(mode, seed, width, height)
    image.getexif()[0x0112] = orientation
    here = loaded(image)
    assert isinstance(here, Image.Image)
    np.testing.assert_array_equal(frame.frame(here), frame.decode(encoded(image)))


@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(1, 9),
    height=st.integers(1, 9),
    channels=st.sampled_from([None, 1, 3, 4]),
    frame=st.sampled_from(FRAMES),
)
def test_an_array_is_the_picture_that_pillow_makes_of_it(
    seed: int, width: int, height: int, channels: int | None, frame: ImageContract
) -> None:
    shape = (height, width) if channels is None else (height, width, channels)
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    image = Image.fromarray(array[:, :, 0] if channels == 1 else array)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    np.testing.assert_array_equal(frame.decode(encoded(array)), frame.decode(buffer.getvalue()))
    np.testing.assert_array_equal(
        frame.decode(encoded(array[:, ::-1])),  # a view whose rows run backwards
        frame.decode(encoded(np.ascontiguousarray(array[:, ::-1]))),
    )


def test_the_exif_orientation_of_an_open_file_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(0, width=5, height=8).save(tmp_path / "a.png", exif=exif)
    frame = FRAMES[0]
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(
            frame.decode(encoded(image)), frame.decode((tmp_path / "a.png").read_bytes())
        )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((4, 4), np.float32), "expected an array of uint8 from 0 to 255, got float32"),
        (np.zeros((0, 4, 3), np.uint8), r"of shape \(0, 4, 3\)"),
        (np.zeros((3, 4, 5), np.uint8), r"height x width x 1, 3 or 4 channels, got the shape"),
        (np.zeros((2, 4, 4, 3), np.uint8), "several pictures are a list of arrays"),
        (Image.new("F", (2, 2)), "mode F have no agreed range"),
        (Image.new("I", (2, 2)), "mode I have no agreed range"),
        (3, "expected a path, bytes, a Pillow image or an array, got int"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_was_expected(wrong: Any, message: str) -> None:
    with pytest.raises(InvalidImage, match=message):
        encoded(wrong)


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="No such file"):
        encoded(tmp_path / "none.png")
    with pytest.raises(InvalidData, match="Is a directory"):
        encoded(str(tmp_path))


def test_one_picture_is_told_from_several() -> None:
    pixels = np.zeros((4, 4), np.uint8)
    for one in ("a.png", Path("a.png"), b"x", bytearray(b"x"), memoryview(b"x"), pixels,
                Image.new("L", (1, 1))):  # fmt: skip
        assert as_several(one) == ([one], True)
    for several in (["a.png"], (b"x",), [], iter(["a"])):
        assert as_several(several) == (several, False)
    with pytest.raises(InvalidConfig, match="or several, got int"):
        as_several(3)  # type: ignore[arg-type]


def test_messages_name_a_picture_by_its_path_or_place(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        names = [name_of(each, 3) for each in ("a.png", Path("b.png"), image, b"x")]
    assert names == ["a.png", "b.png", str(tmp_path / "a.png"), "picture 3"]


def test_bytes_need_no_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "PIL.Image")
    assert encoded(b"x") == b"x"


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_the_same_here_and_there(mode: str) -> None:
    image = in_mode(mode, 1, 7, 5)
    here = loaded(image)
    assert isinstance(here, Image.Image)
    for frame in FRAMES:
        np.testing.assert_array_equal(frame.frame(here), frame.decode(encoded(image)))


def test_damaged_exif_says_nothing_of_the_pixels() -> None:
    image = in_mode("RGB", 1, 7, 5)
    image.info["exif"] = b"no Exif at all"
    assert encoded(image) == encoded(in_mode("RGB", 1, 7, 5))


class Unreadable:
    """An array of somebody who does not give its elements."""

    def __array__(self, *_: object) -> None:
        raise RuntimeError("on another device")


def closed() -> Image.Image:
    image = Image.new("L", (3, 3))
    image.close()
    return image


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Image.new("L", (0, 3)), "expected pixels, got 0 x 3"),
        (closed(), "its pixels cannot be read: Operation on closed image"),
        (Unreadable(), "its pixels cannot be read: on another device"),
    ],
)
def test_a_picture_without_pixels_is_refused(picture: Any, message: str) -> None:
    with pytest.raises(InvalidImage, match=message):
        loaded(picture)


def test_a_path_that_cannot_be_is_no_picture() -> None:
    with pytest.raises(InvalidData, match="embedded null byte"):
        loaded("a\0b")
