"""TrivialAugment: one operation of random strength for each image, and nothing to tune.

Mueller & Hutter 2021 (arXiv:2103.10158), the wide space of their table 4, as torchvision has it.

Shapes: B images, R of them that get the same kind of operation, C channels, H height, W width.
"""

from collections.abc import Callable
from enum import IntEnum
from functools import cache
from math import cos, radians, sin

import torch
from torch import Tensor

from snapensemble.trainer.augmentation.colour import (
    auto_contrasted,
    blended,
    equalised,
    posterised,
    sharpened,
    solarised,
)
from snapensemble.trainer.augmentation.geometry import transformed
from snapensemble.trainer.device.transfers import sent

BINS = 31  # strengths of an operation, the first of which changes nothing
MAX_SHEAR = 0.99  # pixels per pixel
MAX_SHIFT = 32  # pixels; the width or height of smaller images
MAX_TURN = 135.0  # degrees
MAX_BLEND = 0.99  # to either side of 1
MIN_BITS = 2  # of 8


class Operation(IntEnum):
    """What may happen to an image, each as probable as the others."""

    IDENTITY = 0
    SHEAR_X = 1
    SHEAR_Y = 2
    TRANSLATE_X = 3
    TRANSLATE_Y = 4
    ROTATE = 5
    BRIGHTNESS = 6
    CONTRAST = 7
    COLOUR = 8
    SHARPNESS = 9
    POSTERISE = 10
    SOLARISE = 11
    AUTO_CONTRAST = 12
    EQUALISE = 13


MOVES = tuple(Operation)[Operation.SHEAR_X : Operation.BRIGHTNESS]
BLENDS = tuple(Operation)[Operation.BRIGHTNESS : Operation.SHARPNESS]


def draw_trivial(batch: int, numbers: torch.Generator) -> Tensor:
    """draws_3B: for each image its operation, the strength's number, and the sign, -1 or 1."""
    operation_B = torch.randint(len(Operation), (batch,), generator=numbers)
    bin_B = torch.randint(BINS, (batch,), generator=numbers)
    sign_B = 2 * torch.randint(2, (batch,), generator=numbers) - 1
    return torch.stack([operation_B, bin_B, sign_B])


def trivially_augmented(images_BCHW: Tensor, draws_3B: Tensor) -> Tensor:
    """The images after their operations.

    Args:
        images_BCHW: uint8, on any device.
        draws_3B: on the CPU, so that nothing waits for the device to find the rows of a kind.
    """
    found_BCHW = images_BCHW.clone()
    for operations, change in KINDS:
        rows_R = torch.isin(draws_3B[0], torch.tensor(operations)).nonzero().squeeze(1)
        if len(rows_R):
            mine_R = sent(rows_R, images_BCHW.device)
            found_BCHW[mine_R] = change(images_BCHW[mine_R], draws_3B[:, rows_R])
    return found_BCHW


@cache
def matrices(height: int, width: int) -> Tensor:
    """A table of matrices for `transformed`: [move, sign, strength, 6], float32.

    So no last bit of them depends on a batch. Shears leave the top left corner where it is,
    rotations the middle of the image.
    """
    x, y = width / 2, height / 2
    table: list[list[list[tuple[float, ...]]]] = [[[], []] for _ in MOVES]
    for side, sign in enumerate((-1, 1)):
        for strength in range(BINS):
            part = sign * strength / (BINS - 1)
            shear = MAX_SHEAR * part
            across, down = (int(min(MAX_SHIFT, size) * part) for size in (width, height))
            c, s = cos(radians(MAX_TURN * part)), sin(radians(MAX_TURN * part))
            rows = {
                Operation.SHEAR_X: (1.0, shear, 0.0, 0.0, 1.0, 0.0),
                Operation.SHEAR_Y: (1.0, 0.0, 0.0, shear, 1.0, 0.0),
                Operation.TRANSLATE_X: (1.0, 0.0, -across, 0.0, 1.0, 0.0),
                Operation.TRANSLATE_Y: (1.0, 0.0, 0.0, 0.0, 1.0, -down),
                Operation.ROTATE: (c, -s, x - c * x + s * y, s, c, y - s * x - c * y),
            }
            for index, move in enumerate(MOVES):
                table[index][side].append(rows[move])
    return torch.tensor(table)


def factors(draws_3R: Tensor) -> Tensor:
    """factor_R for `blended` and `sharpened`, from 0.01 to 1.99."""
    _, bin_R, sign_R = draws_3R
    return torch.add(1, sign_R * bin_R * (MAX_BLEND / (BINS - 1)))


def bits(draws_3R: Tensor) -> Tensor:
    """bits_R for `posterised`, from 8 to 2."""
    return 8 - (draws_3R[1] / ((BINS - 1) / (8 - MIN_BITS))).round().long()


def thresholds(draws_3R: Tensor) -> Tensor:
    """threshold_R for `solarised`, from 255 to 0."""
    return 255 * (BINS - 1 - draws_3R[1]) / (BINS - 1)


def _moved(images_RCHW: Tensor, draws_3R: Tensor) -> Tensor:
    operation_R, bin_R, sign_R = draws_3R
    table = matrices(*images_RCHW.shape[2:])
    matrix_R6 = table[operation_R - MOVES[0], (sign_R + 1) // 2, bin_R]
    return transformed(images_RCHW, sent(matrix_R6.T, images_RCHW.device))


def _blended(images_RCHW: Tensor, draws_3R: Tensor) -> Tensor:
    blend_R, device = draws_3R[0] - BLENDS[0], images_RCHW.device  # in the order of `Blend`
    return blended(images_RCHW, sent(blend_R, device), sent(factors(draws_3R), device))


KINDS: tuple[tuple[tuple[Operation, ...], Callable[[Tensor, Tensor], Tensor]], ...] = (
    (MOVES, _moved),
    (BLENDS, _blended),
    ((Operation.SHARPNESS,), lambda x, draws: sharpened(x, sent(factors(draws), x.device))),
    ((Operation.POSTERISE,), lambda x, draws: posterised(x, sent(bits(draws), x.device))),
    ((Operation.SOLARISE,), lambda x, draws: solarised(x, sent(thresholds(draws), x.device))),
    ((Operation.AUTO_CONTRAST,), lambda x, _: auto_contrasted(x)),
    ((Operation.EQUALISE,), lambda x, _: equalised(x)),
)
