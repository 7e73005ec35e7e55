from collections.abc import Callable
from math import atan, degrees
from typing import Any

import pytest
import torch
from torch import Tensor

from snapensemble.trainer.augmentation.trivial import (
    BINS,
    MOVES,
    Operation,
    bits,
    draw_trivial,
    factors,
    thresholds,
    trivially_augmented,
)
from tests.trainer.augmentation.reference import functional, furthest, pictures, transforms

BLACK = [0.0, 0.0, 0.0]
Change = Callable[[Tensor, float], Tensor]


def sheared(image: Tensor, x: float, y: float) -> Tensor:
    shear = [degrees(atan(x)), degrees(atan(y))]
    moved: Tensor = functional.affine(
        image, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, center=[0, 0], fill=BLACK
    )
    return moved


def shifted(image: Tensor, x: float, y: float) -> Tensor:
    whole = [int(round(pixels, 3)) for pixels in (x, y)]  # 15.999999 is 16 that was rounded
    moved: Tensor = functional.affine(
        image, angle=0.0, translate=whole, scale=1.0, shear=[0.0, 0.0], fill=BLACK
    )
    return moved


# The name of each operation in torchvision's space of TrivialAugmentWide, and what it does there.
REFERENCE: dict[Operation, tuple[str, Change]] = {
    Operation.IDENTITY: ("Identity", lambda image, _: image),
    Operation.SHEAR_X: ("ShearX", lambda image, m: sheared(image, m, 0)),
    Operation.SHEAR_Y: ("ShearY", lambda image, m: sheared(image, 0, m)),
    Operation.TRANSLATE_X: ("TranslateX", lambda image, m: shifted(image, m, 0)),
    Operation.TRANSLATE_Y: ("TranslateY", lambda image, m: shifted(image, 0, m)),
    Operation.ROTATE: ("Rotate", lambda image, m: functional.rotate(image, m, fill=BLACK)),
    Operation.BRIGHTNESS: ("Brightness", lambda x, m: functional.adjust_brightness(x, 1 + m)),
    Operation.CONTRAST: ("Contrast", lambda x, m: functional.adjust_contrast(x, 1 + m)),
    Operation.COLOUR: ("Color", lambda x, m: functional.adjust_saturation(x, 1 + m)),
    Operation.SHARPNESS: ("Sharpness", lambda x, m: functional.adjust_sharpness(x, 1 + m)),
    Operation.POSTERISE: ("Posterize", lambda x, m: functional.posterize(x, int(m))),
    Operation.SOLARISE: ("Solarize", lambda x, m: functional.solarize(x, round(255 * m, 3))),
    Operation.AUTO_CONTRAST: ("AutoContrast", lambda x, _: functional.autocontrast(x)),
    Operation.EQUALISE: ("Equalize", lambda x, _: functional.equalize(x)),
}
SPACE: dict[str, Any] = transforms.TrivialAugmentWide._AUGMENTATION_SPACE


def test_the_space_is_torchvision_s() -> None:
    assert {name for name, _ in REFERENCE.values()} == set(SPACE) and len(SPACE) == len(Operation)


@pytest.mark.parametrize("operation", Operation)
def test_every_strength_of_an_operation_does_what_torchvision_does(operation: Operation) -> None:
    name, change = REFERENCE[operation]
    magnitudes, signed = SPACE[name]
    table = magnitudes(BINS, 40, 50)
    images_BCHW = pictures(2 * BINS, H=40, W=50)
    bin_B, sign_B = torch.arange(BINS).repeat(2), torch.tensor([-1, 1]).repeat_interleave(BINS)
    draws_3B = torch.stack([torch.full_like(bin_B, operation), bin_B, sign_B])
    found_BCHW = trivially_augmented(images_BCHW, draws_3B)
    for image, found, step, sign in zip(images_BCHW, found_BCHW, bin_B, sign_B, strict=True):
        magnitude = 0.0 if table is None else float(table[step]) * (int(sign) if signed else 1)
        expected = change(image, magnitude)
        if operation in MOVES:  # the nearest pixel may be either of two
            assert (found != expected).float().mean() < 0.02
        else:
            assert furthest(found, expected) <= 2


def test_the_first_strength_of_moves_and_blends_changes_nothing() -> None:
    operations = torch.tensor([*MOVES, Operation.BRIGHTNESS, Operation.SHARPNESS, 0])
    draws_3B = torch.stack([operations, torch.zeros_like(operations), torch.ones_like(operations)])
    images_BCHW = pictures(len(operations))
    assert torch.equal(trivially_augmented(images_BCHW, draws_3B), images_BCHW)


def test_the_strongest_are_those_of_the_paper_s_wide_space() -> None:
    strongest = torch.tensor([[0, 0], [BINS - 1, BINS - 1], [-1, 1]])
    assert factors(strongest).tolist() == pytest.approx([0.01, 1.99])
    assert bits(strongest).tolist() == [2, 2] and thresholds(strongest).tolist() == [0, 0]


@pytest.mark.parametrize(("side", "left"), [(8, 0), (32, 0), (40, 8)])
def test_the_longest_shift_is_32_pixels_or_the_whole_of_a_smaller_image(
    side: int, left: int
) -> None:
    white = torch.full((1, 1, side, side), 255, dtype=torch.uint8)
    draws_3B = torch.tensor([[Operation.TRANSLATE_X], [BINS - 1], [1]])
    assert int((trivially_augmented(white, draws_3B) > 0).sum()) == left * side


def test_operations_strengths_and_signs_are_equally_frequent() -> None:
    operation_B, bin_B, sign_B = draw_trivial(30_000, torch.Generator().manual_seed(0))
    for values_B, kinds in ((operation_B, len(Operation)), (bin_B, BINS), (sign_B + 1, 3)):
        counts = torch.bincount(values_B, minlength=kinds)
        counts = counts[counts > 0]
        expected = 30_000 / len(counts)
        assert (counts - expected).abs().max() < 5 * expected**0.5
    assert sign_B.unique().tolist() == [-1, 1]
    assert operation_B.unique().tolist() == [*Operation]
    assert bin_B.unique().tolist() == [*range(BINS)]
