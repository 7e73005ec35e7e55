from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from snapensemble.contracts.pixels import decode_image
from snapensemble.trainer.suspects.duplicates import (
    EXACT,
    HASH_BITS,
    MAX_DISTANCE,
    duplicates,
    near,
    perceptual_hashes,
)
from tests.factories import encoded

HASHES = st.integers(0, 2**HASH_BITS - 1)


def scene(seed: int, side: int = 64) -> Image.Image:
    """Blots of colour, as different from seed to seed as photographs are."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def pixels(picture: Image.Image, kind: str = "PNG", side: int = 64) -> NDArray[np.uint8]:
    return decode_image(encoded(picture, kind), channels=3, height=side, width=side)


@given(
    st.lists(HASHES, max_size=12),
    st.lists(st.tuples(HASHES, st.sets(st.integers(0, HASH_BITS - 1), max_size=9)), max_size=12),
)
def test_all_pairs_of_hashes_that_differ_in_few_bits_are_found(
    alone: list[int], changed: list[tuple[int, set[int]]]
) -> None:
    both = [[start, start ^ sum(1 << bit for bit in bits)] for start, bits in changed]
    hashes = list(dict.fromkeys([*alone, *(one for pair in both for one in pair)]))
    found = near(np.array(hashes, dtype=np.uint64))
    expected = {
        (one, other, distance)
        for other in range(len(hashes))
        for one in range(other)
        if (distance := (hashes[one] ^ hashes[other]).bit_count()) <= MAX_DISTANCE
    }
    assert set(zip(*(array.tolist() for array in found), strict=True)) == expected
    assert len(found.first_P) == len(expected)


@pytest.mark.parametrize(
    "changed",
    [
        lambda picture: pixels(picture, "JPEG"),
        lambda picture: pixels(picture.resize((300, 300))),
        lambda picture: pixels(ImageEnhance.Brightness(picture).enhance(0.8)),
        lambda picture: pixels(picture.convert("L").convert("RGB")),
    ],
    ids=["JPEG", "larger", "darker", "grey"],
)
def test_a_picture_that_was_saved_again_or_edited_is_found_among_others(
    changed: Callable[[Image.Image], NDArray[np.uint8]],
) -> None:
    images_NCHW = np.stack([pixels(scene(seed)) for seed in range(40)])
    pairs = duplicates(images_NCHW, changed(scene(7))[None])
    assert (pairs.first_P.tolist(), pairs.second_P.tolist()) == ([7], [40])
    assert 0 <= pairs.distance_P[0] <= MAX_DISTANCE


def test_the_same_pixels_are_exact_duplicates_in_any_part_and_any_size() -> None:
    for side in (8, 64):
        images_NCHW = np.stack([pixels(scene(seed), side=side) for seed in range(5)])
        pairs = duplicates(images_NCHW[:3], images_NCHW[[4, 1]], images_NCHW[[3, 4]])
        found = zip(*(array.tolist() for array in pairs), strict=True)
        assert list(found) == [(1, 4, EXACT), (3, 6, EXACT)]


def test_a_group_has_as_many_pairs_as_connect_it() -> None:
    same = [pixels(scene(1))] * 5 + [pixels(scene(1), "JPEG")] * 3
    pairs = duplicates(np.stack([pixels(scene(0)), *same]))
    assert len(pairs.first_P) == len(same) - 1
    assert (pairs.distance_P == EXACT).sum() == 4 + 2
    assert (pairs.first_P < pairs.second_P).all() and 0 not in pairs.first_P


def test_pictures_of_one_colour_are_not_taken_for_each_other() -> None:
    plain = [np.full((3, 64, 64), grey, dtype=np.uint8) for grey in range(0, 250, 10)]
    noise = np.random.default_rng(0).integers(0, 3, (3, 64, 64), dtype=np.uint8)
    assert not len(duplicates(np.stack([*plain, plain[7] + noise])).first_P)
    assert len(duplicates(np.stack([plain[3], plain[4], plain[3]])).first_P) == 1


def test_images_are_grey_or_in_colour_and_there_may_be_none() -> None:
    grey_NCHW = np.stack([pixels(scene(seed))[:1] for seed in (1, 2, 1)])
    assert duplicates(grey_NCHW).second_P.tolist() == [2]
    assert not len(duplicates(grey_NCHW[:0]).first_P)


def test_hashes_do_not_depend_on_how_the_images_are_divided() -> None:
    images_NCHW = np.stack([pixels(scene(seed)) for seed in range(6)])
    whole, _ = perceptual_hashes(images_NCHW)
    parts, _ = perceptual_hashes(images_NCHW[:1], images_NCHW[1:1], images_NCHW[1:])
    assert whole.tolist() == parts.tolist() and len(set(whole.tolist())) == 6
