"""Distortions of a whole batch at once, on the device that holds it; what is random is an argument.

Each image's result depends on its own pixels and numbers only: a part of a batch comes out as it
does within the whole.

Shapes: B images, C channels, H height, W width, T tries.
"""

from math import log

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

TRIES = 10
MAX_ASPECT = 4 / 3  # the smallest is its inverse


def shifted(images_BCHW: Tensor, shift_2B: Tensor, mirrored_B: Tensor) -> Tensor:
    """Move each image by `shift_2B` pixels (down, right) up to its size less one, then mirror some.

    Pixels from beyond the edge are reflected. It is one gather with computed indices: nothing is
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
        place_2B: from the top and from the left, uniform in [0, 1).
        height: the image's.
        width: the image's.

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


def resized(images_BCHW: Tensor, box_4B: Tensor) -> Tensor:
    """Each image's box, scaled to the image's size; bilinear, which is exact where it is whole."""
    _, _, H, W = images_BCHW.shape
    device = images_BCHW.device
    top_B, left_B, height_B, width_B = box_4B
    rows_BH = top_B[:, None] + (torch.arange(H, device=device) + 0.5) * (height_B / H)[:, None]
    cols_BW = left_B[:, None] + (torch.arange(W, device=device) + 0.5) * (width_B / W)[:, None]
    # At the box's edge its own outermost pixels count, as if it had been cut out before.
    rows_BH = _within(rows_BH, top_B + 0.5, top_B + height_B - 0.5) * (2 / H) - 1
    cols_BW = _within(cols_BW, left_B + 0.5, left_B + width_B - 0.5) * (2 / W) - 1
    grid_BHW2 = torch.stack(
        [cols_BW[:, None, :].expand(-1, H, -1), rows_BH[:, :, None].expand(-1, -1, W)], dim=3
    )
    found_BCHW = grid_sample(
        images_BCHW.float(), grid_BHW2, padding_mode="border", align_corners=False
    )
    return found_BCHW.round().clamp(0, 255).to(images_BCHW.dtype)


def cut_out(images_BCHW: Tensor, hole_2B: Tensor, *, side: int, fill_C: Tensor) -> Tensor:
    """A square of one colour over each image (DeVries & Taylor 2017, arXiv:1708.04552, section 3).

    Its centre may be anywhere in the image, so that part of it may lie outside.

    Args:
        images_BCHW: uint8.
        hole_2B: the centre from the top and from the left, uniform in [0, 1).
        side: in pixels.
        fill_C: uint8.
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
