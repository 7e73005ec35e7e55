"""Large pictures are flattened in strips; the pixels are those of one piece."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import snapensemble.contracts.pictures.decode
from snapensemble.contracts.pictures.decode import in_frame

ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
MODES = ["1", "L", "LA", "P", "P transparent", "PA", "RGB", "RGB transparent", "RGBA", "CMYK",
         "YCbCr", "I;16"]  # fmt: skip


def noise(mode: str, width: int, height: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    rgba = Image.fromarray(pixels)
    name, _, transparent = mode.partition(" ")
    if name == "I;16":
        return Image.fromarray(rng.integers(0, 65_536, (height, width), dtype=np.uint16))
    if name in ("P", "PA"):
        picture = Image.fromarray(pixels[..., 0], "L").convert("P")
        picture.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
        picture = picture if name == "P" else picture.convert("PA")
    else:
        picture = rgba if name == "RGBA" else rgba.convert("RGB").convert(name)
        if name == "LA":
            picture.putalpha(rgba.getchannel("A"))
    if transparent:
        picture.info["transparency"] = 7 if name == "P" else tuple(pixels[0, 0, :3].tolist())
    return picture


def in_one_piece(picture: Image.Image, mode: str, *, height: int, width: int) -> np.ndarray:
    """The straightforward way, with a copy of the picture for every step."""
    turn = ORIENTATIONS.get(picture.getexif().get(0x0112, 1))
    upright = picture if turn is None else picture.transpose(turn)
    if upright.mode == "I;16":
        wide = np.asarray(upright.convert("I"), dtype=np.int32)
        upright = Image.fromarray((wide >> 8).clip(0, 255).astype(np.uint8))
    if upright.mode in ("LA", "PA", "RGBA") or "transparency" in upright.info:
        rgba = upright.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        upright = Image.alpha_composite(white, rgba).convert("RGB")
    flat = upright.convert(mode)
    if flat.size == (width, height):
        return np.asarray(flat)
    scale = max(width / flat.width, height / flat.height)
    span_x, span_y = width / scale, height / scale
    left, top = max((flat.width - span_x) / 2, 0.0), max((flat.height - span_y) / 2, 0.0)
    box = (left, top, min(left + span_x, flat.width), min(top + span_y, flat.height))
    return np.asarray(flat.resize((width, height), Image.Resampling.BILINEAR, box=box))


@given(
    mode=st.sampled_from(MODES),
    to_mode=st.sampled_from(["L", "RGB"]),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    to_size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    same_size=st.booleans(),
    orientation=st.integers(1, 8),
    strip=st.integers(1, 400),
    seed=st.integers(0, 9),
)
@settings(max_examples=400, deadline=None)
def test_strips_give_the_pixels_of_one_piece(
    mode: str, to_mode: str, size: tuple[int, int], to_size: tuple[int, int], same_size: bool,
    orientation: int, strip: int, seed: int,
) -> None:  # fmt: skip
    picture = noise(mode, *size, seed)
    picture.getexif()[0x0112] = orientation
    width, height = size if same_size else to_size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapensemble.contracts.pictures.decode, "STRIP_PIXELS", 0)
        patch.setattr(snapensemble.contracts.pictures.decode, "_ROWS_PIXELS", strip)
        found = in_frame(picture, to_mode, height=height, width=width, fit="cover")
    expected = in_one_piece(picture, to_mode, height=height, width=width)
    np.testing.assert_array_equal(found, expected)


def test_seeing_against_white_is_what_alpha_compositing_makes_of_every_value() -> None:
    value, alpha = np.meshgrid(np.arange(256), np.arange(256))
    picture = Image.fromarray(np.stack([value, value, value, alpha], axis=-1).astype(np.uint8))
    expected = in_one_piece(picture, "RGB", height=256, width=256)
    np.testing.assert_array_equal(
        in_frame(picture, "RGB", height=256, width=256, fit="cover"), expected
    )
