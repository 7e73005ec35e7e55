"""Augmentation: random numbers for a whole batch first, then images by those numbers.

The draws come from a generator on the CPU and do not depend on the images, so that they are the
same on every device, and processes that share a batch can each apply their rows of them.

Shapes: B images, C channels, H height, W width, T tries.
"""

from dataclasses import dataclass, replace
from math import log

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.pixels import ImageContract

TRIES = 10  # for a crop
MAX_ASPECT = 4 / 3  # the smallest is its inverse


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How images are changed before each step; by default not at all.

    `crop_padding` and `cutout` (a square's side) are in pixels; `min_area` is the smallest fraction
    of an image that a resized crop shows, 1 for no such crop; `size` is the crop's height and
    width, where they are not the image's.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0
    min_area: float = 1.0
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if min(self.crop_padding, self.cutout) < 0:
            raise InvalidConfig("crop_padding and cutout must not be negative")
        if not 0 < self.min_area <= 1:
            raise InvalidConfig(f"min_area must be in (0, 1], got {self.min_area}")
        if self.size is not None and self.min_area == 1:
            raise InvalidConfig(
                "only resized crops can have another size; min_area must be below 1"
            )


@dataclass(frozen=True, slots=True)
class Draws:
    """The random numbers of one batch."""

    settings: Augmentation
    shift_2B: Tensor
    mirrored_B: Tensor
    tries_2BT: Tensor | None
    place_2B: Tensor | None
    hole_2B: Tensor | None

    def rows(self, start: int, stop: int) -> "Draws":
        """What `augment` needs for the images from `start` to before `stop` of the batch."""
        part = slice(start, stop)
        return replace(
            self,
            shift_2B=self.shift_2B[:, part],
            mirrored_B=self.mirrored_B[part],
            tries_2BT=None if self.tries_2BT is None else self.tries_2BT[:, part],
            place_2B=None if self.place_2B is None else self.place_2B[:, part],
            hole_2B=None if self.hole_2B is None else self.hole_2B[:, part],
        )


def draw_augmentation(batch: int, settings: Augmentation, generator: torch.Generator) -> Draws:
    """Draw the random numbers for `batch` images.

    Shifts and mirrorings are always drawn, and first: a setting that is off takes nothing from the
    generator that another would get.
    """
    padding = settings.crop_padding
    shift_2B = torch.randint(-padding, padding + 1, (2, batch), generator=generator)
    mirrored_B = torch.rand(batch, generator=generator) < (0.5 if settings.flip else 0.0)
    tries_2BT = place_2B = hole_2B = None
    if settings.min_area < 1:
        # Computed here for the whole batch: the last bit of exp may depend on its neighbours.
        uniform_2BT = torch.rand(2, batch, TRIES, generator=generator)
        tries_2BT = areas_and_aspects(uniform_2BT, settings.min_area)
        place_2B = torch.rand(2, batch, generator=generator)
    if settings.cutout > 0:
        hole_2B = torch.rand(2, batch, generator=generator)
    return Draws(settings, shift_2B, mirrored_B, tries_2BT, place_2B, hole_2B)


def augment(images_BCHW: Tensor, draws: Draws, fill_C: Tensor) -> Tensor:
    """Crop and resize, then shift and mirror, then cut out, as the settings say.

    Args:
        images_BCHW: uint8, on any device.
        draws: for exactly these images.
        fill_C: uint8, the colour of what is cut out; see `fill_colour`.

    Returns:
        The type and device of `images_BCHW`, and its shape but for the `size` of crops.
    """
    settings, device = draws.settings, images_BCHW.device
    if draws.tries_2BT is not None and draws.place_2B is not None:
        H, W = images_BCHW.shape[2:]
        box_4B = crop_boxes(draws.tries_2BT, draws.place_2B, height=H, width=W)
        images_BCHW = resized(images_BCHW, box_4B.to(device), *(settings.size or (H, W)))
    if settings.crop_padding > 0 or settings.flip:
        images_BCHW = shifted(images_BCHW, draws.shift_2B.to(device), draws.mirrored_B.to(device))
    if draws.hole_2B is not None:
        images_BCHW = cut_out(
            images_BCHW, draws.hole_2B.to(device), side=settings.cutout, fill_C=fill_C
        )
    return images_BCHW


def fill_colour(image: ImageContract) -> Tensor:
    """fill_C: the mean of the training images per channel, uint8; nearly zero to the network."""
    return torch.tensor([round(mean * 255) for mean in image.mean]).clamp(0, 255).to(torch.uint8)


def areas_and_aspects(uniform_2BT: Tensor, min_area: float) -> Tensor:
    """tries_2BT for `crop_boxes`, from numbers in [0, 1).

    Areas are fractions between `min_area` and 1, uniform; aspects are width / height between 3/4
    and 4/3, uniform in their logarithm.
    """
    areas_BT = min_area + (1 - min_area) * uniform_2BT[0]
    return torch.stack([areas_BT, torch.exp((2 * uniform_2BT[1] - 1) * log(MAX_ASPECT))])


def crop_boxes(tries_2BT: Tensor, place_2B: Tensor, *, height: int, width: int) -> Tensor:
    """Boxes as Szegedy et al. 2015 (arXiv:1409.4842, section 6) and torchvision choose them.

    The first try that fits into the image counts, and where none does, the largest box in the
    middle.

    Args:
        tries_2BT: areas and aspects.
        place_2B: the box's place from the top and from the left, uniform in [0, 1).
        height: of the image, in pixels.
        width: of the image, in pixels.

    Returns:
        box_4B: top, left, height and width in whole pixels, float32.
    """
    area_BT, aspect_BT = tries_2BT[0] * (height * width), tries_2BT[1]
    size_2BT = torch.stack([area_BT / aspect_BT, area_BT * aspect_BT]).sqrt().round().clamp(min=1)
    limit_2 = torch.tensor([height, width], dtype=size_2BT.dtype, device=size_2BT.device)
    fits_BT = (size_2BT <= limit_2[:, None, None]).all(dim=0)
    # The first that fits: the largest of the descending numbers.
    order_T = torch.arange(fits_BT.shape[1], 0, -1, device=fits_BT.device)
    first_2B1 = (fits_BT * order_T).argmax(dim=1)[None, :, None].expand(2, -1, 1)
    size_2B = size_2BT.gather(2, first_2B1).squeeze(2)
    middle_2 = torch.minimum(limit_2, (limit_2.flip(0) * MAX_ASPECT).round())
    fits_B = fits_BT.any(dim=1)
    size_2B = torch.where(fits_B, size_2B, middle_2[:, None])
    room_2B = limit_2[:, None] - size_2B
    # A product just below room + 1 may round up to it.
    start_2B = torch.minimum((place_2B * (room_2B + 1)).floor(), room_2B)
    start_2B = torch.where(fits_B, start_2B, (room_2B / 2).floor())
    return torch.cat([start_2B, size_2B])


def resized(images_BCHW: Tensor, box_4B: Tensor, height: int, width: int) -> Tensor:
    """Scale each image's box to this size, bilinearly; a box that has it already stays exact."""
    _, _, H, W = images_BCHW.shape
    device = images_BCHW.device
    top_B, left_B, height_B, width_B = box_4B
    rows_h, cols_w = (torch.arange(n, device=device) + 0.5 for n in (height, width))
    rows_BH = top_B[:, None] + rows_h * (height_B / height)[:, None]
    cols_BW = left_B[:, None] + cols_w * (width_B / width)[:, None]
    # At the box's edge its own outermost pixels count, as if it had been cut out before.
    rows_BH = _within(rows_BH, top_B + 0.5, top_B + height_B - 0.5) * (2 / H) - 1
    cols_BW = _within(cols_BW, left_B + 0.5, left_B + width_B - 0.5) * (2 / W) - 1
    grid_BHW2 = torch.stack(
        [cols_BW[:, None, :].expand(-1, height, -1), rows_BH[:, :, None].expand(-1, -1, width)],
        dim=3,
    )
    found_BCHW = grid_sample(
        images_BCHW.float(), grid_BHW2, padding_mode="border", align_corners=False
    )
    return found_BCHW.round().clamp(0, 255).to(images_BCHW.dtype)


def shifted(images_BCHW: Tensor, shift_2B: Tensor, mirrored_B: Tensor) -> Tensor:
    """Move each image by `shift_2B` pixels (down, right) up to its size less one, then mirror some.

    Pixels from beyond the edge are reflected. This is one gather with computed indices: nothing is
    padded or copied before.
    """
    B, C, H, W = images_BCHW.shape
    device = images_BCHW.device
    rows_BH = _reflect(torch.arange(H, device=device) + shift_2B[0, :, None], H)
    cols_BW = _reflect(torch.arange(W, device=device) + shift_2B[1, :, None], W)
    cols_BW = torch.where(mirrored_B[:, None], cols_BW.flip(1), cols_BW)
    flat_BHW = rows_BH[:, :, None] * W + cols_BW[:, None, :]
    flat_BCP = flat_BHW.view(B, 1, H * W).expand(B, C, H * W)
    return images_BCHW.reshape(B, C, H * W).gather(2, flat_BCP).view(B, C, H, W)


def cut_out(images_BCHW: Tensor, hole_2B: Tensor, *, side: int, fill_C: Tensor) -> Tensor:
    """Cover a square of each image (DeVries & Taylor 2017, arXiv:1708.04552, section 3).

    Its centre may be anywhere in the image, so that part of it may lie outside.

    Args:
        images_BCHW: uint8.
        hole_2B: the centre from the top and from the left, uniform in [0, 1).
        side: of the square, in pixels.
        fill_C: uint8, the colour of the square.
    """
    _, _, H, W = images_BCHW.shape
    row_BH = _covered(hole_2B[0], side, H)
    col_BW = _covered(hole_2B[1], side, W)
    hole_B1HW = (row_BH[:, :, None] & col_BW[:, None, :])[:, None]
    return torch.where(hole_B1HW, fill_C.to(images_BCHW).view(1, -1, 1, 1), images_BCHW)


def _reflect(index: Tensor, size: int) -> Tensor:
    """Fold indices from (-size, 2 * size - 1) into [0, size), without repeating the edge."""
    inside = index.abs()
    return torch.where(inside >= size, 2 * (size - 1) - inside, inside)


def _within(points_BX: Tensor, low_B: Tensor, high_B: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(points_BX, low_B[:, None]), high_B[:, None])


def _covered(centre_B: Tensor, side: int, size: int) -> Tensor:
    start_B = (centre_B * size).floor().clamp(max=size - 1) - side // 2
    pixels_X = torch.arange(size, device=centre_B.device)
    return (pixels_X >= start_B[:, None]) & (pixels_X < start_B[:, None] + side)
