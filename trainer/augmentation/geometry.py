"""Where an image's pixels come from: parts that are resized, shifts, shears and rotations.

Shapes: B images, C channels, H height, W width, T tries.
"""

from math import log

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

TRIES = 10  # for a box
CROP_ASPECTS = 3 / 4, 4 / 3


def areas_and_aspects(
    uniform_2BT: Tensor, areas: tuple[float, float], aspects: tuple[float, float] = CROP_ASPECTS
) -> Tensor:
    """tries_2BT for boxes, from numbers in [0, 1).

    Args:
        uniform_2BT: the numbers.
        areas: smallest and largest fraction of the image; uniform between them.
        aspects: smallest and largest width / height; uniform in their logarithm.
    """
    (least, most), (narrow, wide) = areas, map(log, aspects)
    areas_BT = least + (most - least) * uniform_2BT[0]
    logs_BT = (narrow + wide) / 2 + (2 * uniform_2BT[1] - 1) * ((wide - narrow) / 2)
    return torch.stack([areas_BT, torch.exp(logs_BT)])


def fitting_boxes(
    tries_2BT: Tensor, place_2B: Tensor, *, height: int, width: int, spare: int = 0
) -> tuple[Tensor, Tensor]:
    """The first try of each image that fits into it.

    Args:
        tries_2BT: areas as fractions of height x width, and aspects.
        place_2B: the box's place from the top and from the left, uniform in [0, 1).
        height: of the image, in pixels.
        width: of the image, in pixels.
        spare: so many pixels of the height and of the width are left over.

    Returns:
        box_4B, which is top, left, height and width in whole pixels, float32; and fits_B, whether
        any try fits. Where none does, the box means nothing.
    """
    area_BT, aspect_BT = tries_2BT[0] * (height * width), tries_2BT[1]
    size_2BT = torch.stack([area_BT / aspect_BT, area_BT * aspect_BT]).sqrt().round().clamp(min=1)
    limit_2 = torch.tensor([height, width], dtype=size_2BT.dtype, device=size_2BT.device)
    fits_BT = (size_2BT <= limit_2[:, None, None] - spare).all(dim=0)
    # The first that fits: the largest of the descending numbers.
    order_T = torch.arange(fits_BT.shape[1], 0, -1, device=fits_BT.device)
    first_2B1 = (fits_BT * order_T).argmax(dim=1)[None, :, None].expand(2, -1, 1)
    size_2B = size_2BT.gather(2, first_2B1).squeeze(2)
    room_2B = limit_2[:, None] - size_2B
    # A product just below room + 1 may round up to it.
    start_2B = torch.minimum((place_2B * (room_2B + 1)).floor(), room_2B)
    return torch.cat([start_2B, size_2B]), fits_BT.any(dim=1)


def crop_boxes(tries_2BT: Tensor, place_2B: Tensor, *, height: int, width: int) -> Tensor:
    """Boxes as Szegedy et al. 2015 (arXiv:1409.4842, section 6) and torchvision choose them.

    The first try that fits into the image counts, and where none does, the largest box in the
    middle. The arguments and box_4B are as for `fitting_boxes`.
    """
    box_4B, fits_B = fitting_boxes(tries_2BT, place_2B, height=height, width=width)
    limit_2 = torch.tensor([height, width], dtype=box_4B.dtype, device=box_4B.device)
    size_2 = torch.minimum(limit_2, (limit_2.flip(0) * CROP_ASPECTS[1]).round())
    middle_4 = torch.cat([((limit_2 - size_2) / 2).floor(), size_2])
    return torch.where(fits_B, box_4B, middle_4[:, None])


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


def transformed(images_BCHW: Tensor, matrix_6B: Tensor) -> Tensor:
    """Show at each place the pixel that an affine map of the place leads to; black beyond the edge.

    Args:
        images_BCHW: of any type.
        matrix_6B: a, b, c, d, e, f of each image, float32: the pixel whose middle is at (x, y), in
            pixels from the top left corner, becomes that of (a x + b y + c, d x + e y + f). This is
            what Pillow calls an affine transform, to the nearest pixel.
    """
    B, C, H, W = images_BCHW.shape
    rows_H1, cols_W = (torch.arange(n, device=images_BCHW.device) + 0.5 for n in (H, W))
    rows_H1 = rows_H1[:, None]
    a, b, c, d, e, f = matrix_6B[:, :, None, None]
    cols_BHW = (a * cols_W + b * rows_H1 + c).floor()
    rows_BHW = (d * cols_W + e * rows_H1 + f).floor()
    inside_BHW = (cols_BHW >= 0) & (cols_BHW < W) & (rows_BHW >= 0) & (rows_BHW < H)
    flat_BHW = torch.where(inside_BHW, rows_BHW * W + cols_BHW, 0).long()
    flat_BCP = flat_BHW.view(B, 1, H * W).expand(B, C, H * W)
    found_BCHW = images_BCHW.reshape(B, C, H * W).gather(2, flat_BCP).view(B, C, H, W)
    inside_BCHW: Tensor = found_BCHW * inside_BHW[:, None]
    return inside_BCHW


def _reflect(index: Tensor, size: int) -> Tensor:
    """Fold indices from (-size, 2 * size - 1) into [0, size), without repeating the edge."""
    inside = index.abs()
    return torch.where(inside >= size, 2 * (size - 1) - inside, inside)


def _within(points_BX: Tensor, low_B: Tensor, high_B: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(points_BX, low_B[:, None]), high_B[:, None])
