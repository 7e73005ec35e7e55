"""How a picture comes into a frame of another shape."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from snapensemble.contracts.pictures.cost import picture_cost
from snapensemble.contracts.pictures.fit import Fit, fitted, reduction
from snapensemble.contracts.pixels import SERVER_LIMITS, ImageContract, decode_image
from tests.factories import encoded, picture

FITS: tuple[Fit, ...] = ("cover", "pad", "stretch")
sides = st.integers(1, 90)


def with_ends(width: int, height: int) -> Image.Image:
    """Grey with a red first and a blue last tenth of its longer side."""
    wide = np.full((min(width, height), max(width, height), 3), 128, dtype=np.uint8)
    tenth = max(1, wide.shape[1] // 10)
    wide[:, :tenth], wide[:, -tenth:] = (255, 0, 0), (0, 0, 255)
    return Image.fromarray(wide if width >= height else wide.transpose(1, 0, 2).copy())


def shows(image_CHW: np.ndarray, channel: int) -> bool:
    """Whether some pixel is much more of this colour than of the others."""
    pixels = image_CHW.astype(int)
    others = np.delete(pixels, channel, axis=0).max(axis=0)
    return bool((pixels[channel] - others).max() > 60)


@pytest.mark.parametrize("size", [(200, 50), (50, 200)])
@pytest.mark.parametrize(("fit", "kept"), [("cover", False), ("pad", True), ("stretch", True)])
def test_both_ends_of_a_long_picture_are_kept_unless_it_covers(
    size: tuple[int, int], fit: Fit, kept: bool
) -> None:
    data = encoded(with_ends(*size))
    image_CHW = decode_image(data, channels=3, height=32, width=32, fit=fit)
    assert (shows(image_CHW, 0), shows(image_CHW, 2)) == (kept, kept)


@pytest.mark.parametrize("fit", FITS)
def test_a_picture_of_the_frames_size_keeps_its_pixels(fit: Fit) -> None:
    image = picture(width=9, height=7)
    found = decode_image(encoded(image), channels=3, height=7, width=9, fit=fit)
    np.testing.assert_array_equal(found, np.asarray(image).transpose(2, 0, 1))


@given(size=st.tuples(sides, sides), frame=st.tuples(sides, sides))
@settings(max_examples=150, deadline=None)
def test_padding_is_white_even_and_of_one_side_only(
    size: tuple[int, int], frame: tuple[int, int]
) -> None:
    black = Image.new("L", size, 0)
    found = np.asarray(fitted(black, height=frame[1], width=frame[0], fit="pad"))
    assert found.shape == frame[::-1] and set(np.unique(found)) <= {0, 255}
    rows, columns = np.flatnonzero((found == 0).any(1)), np.flatnonzero((found == 0).any(0))
    np.testing.assert_array_equal(found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 0)
    for taken, side in ((rows, frame[1]), (columns, frame[0])):
        before, behind = taken[0], side - 1 - taken[-1]
        assert behind - before in (0, 1)
    assert len(rows) == frame[1] or len(columns) == frame[0]
    # Within half a pixel, its shape is kept.
    scale = min(frame[0] / size[0], frame[1] / size[1])
    assert abs(len(columns) - max(1, size[0] * scale)) <= 0.5
    assert abs(len(rows) - max(1, size[1] * scale)) <= 0.5


@given(
    size=st.tuples(st.integers(1, 4_000), st.integers(1, 4_000)),
    frame=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    fit=st.sampled_from(FITS),
)
@settings(max_examples=300)
def test_a_jpeg_is_never_reduced_below_twice_what_the_frame_shows(
    size: tuple[int, int], frame: tuple[int, int], fit: Fit
) -> None:
    factor = reduction(*size, frame, fit)
    for width, height in (size, size[::-1]):  # it may be turned
        scales = width / frame[0], height / frame[1]
        scale = {"cover": min(scales), "pad": max(scales), "stretch": min(scales)}[fit]
        assert factor == 1 or scale >= 2 * factor
    assert factor <= min(size)


def test_a_long_photograph_is_reduced_as_far_as_its_fit_allows() -> None:
    assert [reduction(4_000, 400, (64, 64), fit) for fit in FITS] == [2, 8, 2]
    assert [reduction(4_000, 3_000, (64, 64), fit) for fit in FITS] == [8, 8, 8]
    assert [reduction(4_000, 3_000, (224, 224), fit) for fit in FITS] == [4, 8, 4]


def test_reducing_a_jpeg_further_costs_less_and_looks_the_same() -> None:
    y, x = np.mgrid[0:400, 0:4_000]
    waves = (127 + 100 * np.sin(x / 150) * np.cos(y / 80)).astype(np.uint8)
    image = Image.fromarray(np.stack([waves] * 3, axis=-1))
    data = encoded(image, "JPEG", quality=95)
    costs = {f: picture_cost(data, SERVER_LIMITS, width=64, height=64, fit=f) for f in FITS}
    assert (costs["pad"].reduction, costs["cover"].reduction) == (8, 2)
    assert costs["pad"].seconds < costs["cover"].seconds
    assert costs["pad"].memory < costs["cover"].memory
    for fit in FITS:
        exact = decode_image(encoded(image), channels=3, height=64, width=64, fit=fit)
        found = decode_image(data, channels=3, height=64, width=64, fit=fit)
        assert np.abs(found.astype(int) - exact).mean() < 2, fit


@given(size=st.tuples(sides, sides), fit=st.sampled_from(FITS), orientation=st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_a_turned_picture_is_fitted_as_the_upright_one(
    size: tuple[int, int], fit: Fit, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = picture(width=size[0], height=size[1])
    upright = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
    }.get(orientation)  # fmt: skip
    expected = encoded(stored if upright is None else stored.transpose(upright))
    found_CHW, expected_CHW = (
        decode_image(data, channels=3, height=20, width=31, fit=fit)
        for data in (encoded(stored, exif=exif), expected)
    )
    np.testing.assert_array_equal(found_CHW, expected_CHW)


def test_a_contract_of_an_earlier_version_covers() -> None:
    earlier = {"channels": 1, "height": 4, "width": 4, "mean": [0.5], "std": [0.5]}
    assert ImageContract.model_validate(earlier).fit == "cover"


@pytest.mark.parametrize("fit", FITS)
def test_the_contract_decodes_as_it_says(fit: Fit) -> None:
    contract = ImageContract(
        channels=3, height=8, width=8, mean=(0.5,) * 3, std=(0.5,) * 3, fit=fit
    )
    data = encoded(picture(width=40, height=9))
    expected = decode_image(data, channels=3, height=8, width=8, fit=fit)
    np.testing.assert_array_equal(contract.decode(data), expected)
