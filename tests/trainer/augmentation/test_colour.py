import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snapensemble.trainer.augmentation.colour import (
    Blend,
    auto_contrasted,
    blended,
    equalised,
    posterised,
    sharpened,
    solarised,
)
from tests.trainer.augmentation.reference import functional, furthest, pictures

REFERENCES = {
    Blend.BRIGHTNESS: functional.adjust_brightness,
    Blend.CONTRAST: functional.adjust_contrast,
    Blend.SATURATION: functional.adjust_saturation,
}
sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
seeds = st.integers(0, 1_000)


@given(channels=st.sampled_from([1, 3]), size=sizes, seed=seeds, factor=st.floats(0, 2))
@settings(deadline=None, max_examples=60)
def test_each_image_is_blended_as_torchvision_blends_it_alone(
    channels: int, size: tuple[int, int], seed: int, factor: float
) -> None:
    images_BCHW = pictures(6, channels, *size, seed)
    blend_B = torch.tensor([*Blend, *Blend])
    factor_B = torch.tensor([factor] * 3 + [1.0] * 3)
    found_BCHW = blended(images_BCHW, blend_B, factor_B)
    assert found_BCHW.dtype == torch.uint8
    for image, found, blend in zip(images_BCHW[:3], found_BCHW, Blend, strict=False):
        # Rounded where it cuts off: values by one, the mean of grey values by one, times 1 + 1.
        assert furthest(found, REFERENCES[blend](image, factor)) <= 2
    assert torch.equal(found_BCHW[3:], images_BCHW[3:])  # a factor of 1


@given(size=sizes, seed=seeds, factor=st.floats(0, 2))
@settings(deadline=None, max_examples=60)
def test_sharpness_is_torchvision_s(size: tuple[int, int], seed: int, factor: float) -> None:
    images_BCHW = pictures(2, 3, *size, seed)
    found_BCHW = sharpened(images_BCHW, torch.tensor([factor, 1.0]))
    assert furthest(found_BCHW[0], functional.adjust_sharpness(images_BCHW[0], factor)) <= 1
    assert torch.equal(found_BCHW[1], images_BCHW[1])


@given(size=sizes, seed=seeds, bits=st.integers(0, 8), threshold=st.floats(0, 255))
@settings(deadline=None, max_examples=60)
def test_posterising_and_solarising_are_torchvision_s(
    size: tuple[int, int], seed: int, bits: int, threshold: float
) -> None:
    images_BCHW = pictures(2, 3, *size, seed)
    found_BCHW = posterised(images_BCHW, torch.tensor([bits, 8]))
    assert torch.equal(found_BCHW[0], functional.posterize(images_BCHW[0], bits))
    assert torch.equal(found_BCHW[1], images_BCHW[1])
    found_BCHW = solarised(images_BCHW, torch.tensor([threshold, 0.0]))
    assert torch.equal(found_BCHW[0], functional.solarize(images_BCHW[0], threshold))
    assert torch.equal(found_BCHW[1], 255 - images_BCHW[1])


@given(channels=st.sampled_from([1, 3]), size=sizes, seed=seeds)
@settings(deadline=None, max_examples=60)
def test_stretching_and_equalising_are_torchvision_s(
    channels: int, size: tuple[int, int], seed: int
) -> None:
    images_BCHW = pictures(4, channels, *size, seed)
    images_BCHW[3, 0] = 77  # a channel that is even
    stretched_BCHW, equal_BCHW = auto_contrasted(images_BCHW), equalised(images_BCHW)
    for image, stretched, equal in zip(images_BCHW, stretched_BCHW, equal_BCHW, strict=True):
        assert furthest(stretched, functional.autocontrast(image)) <= 1
        assert torch.equal(equal, functional.equalize(image))


@pytest.mark.parametrize("blend", Blend)
def test_a_factor_of_nothing_leaves_what_is_blended_with(blend: Blend) -> None:
    image_1CHW = pictures(1)
    (found_CHW,) = blended(image_1CHW, torch.tensor([blend]), torch.zeros(1))
    same_in_all = torch.equal(found_CHW[0], found_CHW[1]) and torch.equal(
        found_CHW[0], found_CHW[2]
    )
    assert same_in_all
    distinct = len(found_CHW.unique())
    assert (distinct > 2) if blend == Blend.SATURATION else (distinct == 1)
