from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.pixels import ImageContract
from snapensemble.trainer.augmentation.batch import (
    Augmentation,
    augment,
    draw_augmentation,
    fill_colour,
)
from snapensemble.trainer.augmentation.geometry import (
    TRIES,
    areas_and_aspects,
    crop_boxes,
    resized,
)
from snapensemble.trainer.augmentation.holes import cut_out

FILL_C = torch.tensor([10, 20, 30], dtype=torch.uint8)


def images(B: int = 64, C: int = 3, H: int = 8, W: int = 6) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (B, C, H, W), dtype=np.uint8)
    return torch.from_numpy(pixels)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def pad_crop_flip(
    before: torch.Tensor, *, padding: int, flip: bool, generator: torch.Generator
) -> torch.Tensor:
    settings = Augmentation(crop_padding=padding, flip=flip)
    return augment(before, draw_augmentation(len(before), settings, generator), torch.empty(0))


@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_each_result_is_a_crop_of_the_reflected_image_and_perhaps_its_mirror(
    padding: int, flip: bool
) -> None:
    before = images()
    after = pad_crop_flip(before, padding=padding, flip=flip, generator=generator())
    assert after.dtype == torch.uint8 and after.shape == before.shape
    _, _, H, W = before.shape
    seen = set()
    for old, new in zip(before.numpy(), after.numpy(), strict=True):
        padded = np.pad(old, ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
        crops = {
            (y, x, mirrored): padded[:, y : y + H, x : x + W][:, :, :: -1 if mirrored else 1]
            for y in range(2 * padding + 1)
            for x in range(2 * padding + 1)
            for mirrored in {False, flip}
        }
        found = [how for how, crop in crops.items() if np.array_equal(crop, new)]
        assert found
        seen.add(found[0])
    if padding or flip:
        assert len(seen) > 1
    assert {mirrored for _, _, mirrored in seen} == {False, flip}


def test_no_padding_and_no_flip_change_nothing() -> None:
    before = images()
    after = pad_crop_flip(before, padding=0, flip=False, generator=generator())
    assert torch.equal(before, after)


def test_the_same_generator_gives_the_same_batch() -> None:
    one, two = (
        pad_crop_flip(images(), padding=2, flip=True, generator=generator()) for _ in range(2)
    )
    assert torch.equal(one, two)


def test_about_half_are_mirrored() -> None:
    ramp = torch.arange(6, dtype=torch.uint8).expand(1000, 1, 1, 6)
    after = pad_crop_flip(ramp, padding=0, flip=True, generator=generator())
    mirrored = (after[:, 0, 0, 0] == 5).float().mean().item()
    assert 0.45 < mirrored < 0.55


kinds: dict[str, st.SearchStrategy[Any]] = {
    "crop_padding": st.integers(0, 5),
    "flip": st.booleans(),
    "cutout": st.integers(0, 12),
    "min_area": st.sampled_from([0.08, 0.5, 0.99, 1.0]),
    "erasing": st.sampled_from([0.0, 0.5, 1.0]),
}
settings_that_keep_colours = st.builds(Augmentation, **kinds)
settings_of_any_kind = st.builds(
    Augmentation, **kinds, trivial=st.booleans(), jitter=st.sampled_from([0.0, 0.4, 1.0])
)


@given(
    how=settings_of_any_kind,
    B=st.integers(1, 9),
    cuts=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
@settings(deadline=None)
def test_a_part_of_a_batch_comes_out_as_within_the_whole(
    how: Augmentation, B: int, cuts: tuple[int, int]
) -> None:
    start, stop = sorted(min(cut, B) for cut in cuts)
    before = images(B)
    draws = draw_augmentation(B, how, generator())
    whole = augment(before, draws, FILL_C)
    assert whole.shape == before.shape and whole.dtype == torch.uint8
    part = augment(before[start:stop], draws.rows(slice(start, stop)), FILL_C)
    assert torch.equal(part, whole[start:stop])
    some = torch.arange(start, stop + 3) % B
    assert torch.equal(augment(before[some], draws.rows(some), FILL_C), whole[some])


@given(how=settings_of_any_kind)
@settings(deadline=None)
def test_the_same_seed_augments_in_the_same_way(how: Augmentation) -> None:
    one, two = (
        augment(images(9), draw_augmentation(9, how, generator()), FILL_C) for _ in range(2)
    )
    assert torch.equal(one, two)


@given(how=settings_that_keep_colours)
@settings(deadline=None)
def test_values_lie_between_the_image_s_own_or_are_the_fill(how: Augmentation) -> None:
    before = images(9)
    after = augment(before, draw_augmentation(9, how, generator()), FILL_C)
    lowest, highest = before.amin(dim=(2, 3), keepdim=True), before.amax(dim=(2, 3), keepdim=True)
    filled = after == FILL_C.view(1, 3, 1, 1)
    assert (((after >= lowest) & (after <= highest)) | filled).all()
    if how.min_area == 1:
        own = torch.stack([torch.isin(a, b) for a, b in zip(after, before, strict=True)])
        assert (own | filled).all()


def test_all_off_changes_nothing() -> None:
    before = images()
    draws = draw_augmentation(len(before), Augmentation(), generator())
    assert torch.equal(augment(before, draws, FILL_C), before)


def test_what_is_drawn_for_shifts_does_not_depend_on_the_other_settings() -> None:
    plain = draw_augmentation(9, Augmentation(crop_padding=4, flip=True), generator())
    more = Augmentation(
        crop_padding=4, flip=True, cutout=3, min_area=0.2, trivial=True, jitter=0.4, erasing=0.2
    )
    full = draw_augmentation(9, more, generator())
    assert torch.equal(plain.shift_2B, full.shift_2B)
    assert torch.equal(plain.mirrored_B, full.mirrored_B)


def test_the_draws_of_shifts_and_mirrorings_are_those_of_earlier_versions() -> None:
    drawn, again = (
        draw_augmentation(64, Augmentation(crop_padding=2, flip=True), generator()),
        generator(),
    )
    assert torch.equal(drawn.shift_2B, torch.randint(-2, 3, (2, 64), generator=again))
    assert torch.equal(drawn.mirrored_B, torch.rand(64, generator=again) < 0.5)


@pytest.mark.parametrize(
    "bad",
    [{"cutout": -1}, {"crop_padding": -1}, {"min_area": 0.0}, {"jitter": 1.1}, {"erasing": -0.1}],
)
def test_settings_that_cannot_work_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig):
        Augmentation(**bad)


@given(side=st.integers(1, 12), y=st.floats(0, 1, exclude_max=True), x=st.floats(0, 0.999))
@settings(deadline=None)
def test_a_hole_is_a_square_around_its_centre_cut_at_the_edges(
    side: int, y: float, x: float
) -> None:
    before = torch.full((1, 3, 8, 6), 200, dtype=torch.uint8)
    after = cut_out(before, torch.tensor([[y], [x]]), side=side, fill_C=FILL_C)
    expected = before.clone().numpy()
    top, left = min(int(np.float32(y) * 8), 7) - side // 2, int(np.float32(x) * 6) - side // 2
    hole = expected[:, :, max(top, 0) : top + side, max(left, 0) : left + side]
    hole[:] = FILL_C.numpy().reshape(1, 3, 1, 1)
    assert np.array_equal(after.numpy(), expected)


def test_every_pixel_is_a_hole_s_centre_equally_often() -> None:
    how = Augmentation(cutout=1)
    blank = torch.zeros(4800, 1, 8, 6, dtype=torch.uint8)
    fill_C = torch.ones(1, dtype=torch.uint8)
    after = augment(blank, draw_augmentation(4800, how, generator()), fill_C)
    counts_HW = after[:, 0].sum(dim=0, dtype=torch.int64)
    assert counts_HW.sum() == 4800 and counts_HW.min() > 60 and counts_HW.max() < 140


@given(
    H=st.integers(1, 64), W=st.integers(1, 64), min_area=st.floats(0.01, 1), seed=st.integers(0, 99)
)
@settings(deadline=None)
def test_boxes_lie_within_the_image(H: int, W: int, min_area: float, seed: int) -> None:
    numbers = torch.Generator().manual_seed(seed)
    tries, place = torch.rand(2, 50, TRIES, generator=numbers), torch.rand(2, 50, generator=numbers)
    box_4B = crop_boxes(areas_and_aspects(tries, (min_area, 1.0)), place, height=H, width=W)
    top, left, height, width = box_4B
    assert torch.equal(box_4B, box_4B.round())
    assert min(top.min(), left.min()) >= 0 and min(height.min(), width.min()) >= 1
    assert (top + height).max() <= H and (left + width).max() <= W


def test_boxes_have_the_areas_and_aspects_of_the_paper() -> None:
    numbers = torch.Generator().manual_seed(0)
    tries, place = (
        torch.rand(2, 5000, TRIES, generator=numbers),
        torch.rand(2, 5000, generator=numbers),
    )
    _, _, height, width = crop_boxes(
        areas_and_aspects(tries, (0.08, 1.0)), place, height=224, width=224
    )
    area, aspect = height * width / 224**2, width / height
    assert 0.07 < area.min() < 0.1 and 0.95 < area.max() <= 1
    # Large boxes of an uneven aspect do not fit, so the mean is below (1 + 0.08) / 2.
    assert 0.46 < area.mean() < 0.5
    assert 0.74 < aspect.min() < 0.76 and 1.32 < aspect.max() < 1.35
    assert abs(aspect.log().mean()) < 0.01


def test_where_no_try_fits_the_largest_box_in_the_middle_is_taken() -> None:
    # Nearly all of an image that is ten times as wide as high fits with no aspect.
    tries, place = torch.full((2, 1, TRIES), 0.5), torch.zeros(2, 1)
    box_4B = crop_boxes(areas_and_aspects(tries, (0.99, 1.0)), place, height=30, width=300)
    assert box_4B.flatten().tolist() == [0, 130, 30, 40]


@given(top=st.integers(0, 7), left=st.integers(0, 5), data=st.data())
@settings(deadline=None)
def test_a_box_is_scaled_as_if_it_had_been_cut_out_before(
    top: int, left: int, data: st.DataObject
) -> None:
    height, width = data.draw(st.integers(1, 8 - top)), data.draw(st.integers(1, 6 - left))
    before = images(1)
    box_4B = torch.tensor([[top], [left], [height], [width]], dtype=torch.float32)
    after = resized(before, box_4B, *before.shape[2:])
    cut = before[:, :, top : top + height, left : left + width].float()
    expected = interpolate(cut, size=(8, 6), mode="bilinear", align_corners=False)
    # Sums in another order: at most a half is rounded the other way.
    assert (after.float() - expected).abs().max() < 0.51


def test_the_whole_image_keeps_its_exact_pixels_when_resized() -> None:
    before = images(4, H=37, W=53)
    whole_4B = torch.tensor([0.0, 0.0, 37.0, 53.0])[:, None].expand(4, 4)
    assert torch.equal(resized(before, whole_4B, *before.shape[2:]), before)


def test_the_fill_is_the_training_images_mean() -> None:
    image = ImageContract(channels=3, height=8, width=8, mean=(0.0, 0.4, 1.0), std=(0.2,) * 3)
    assert fill_colour(image).tolist() == [0, 102, 255] and fill_colour(image).dtype == torch.uint8
