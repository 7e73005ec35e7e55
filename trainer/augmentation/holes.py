"""Parts of an image that are covered: a square, or a rectangle of any shape.

Shapes: B images, C channels, H height, W width, T tries.
"""

import torch
from torch import Tensor

from snapensemble.trainer.augmentation.geometry import fitting_boxes
from snapensemble.trainer.device.transfers import sent

# As torchvision has them for random erasing, after Zhong et al. 2020.
ERASED_AREAS = 0.02, 0.33
ERASED_ASPECTS = 0.3, 3.3


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
    top_B, left_B = (
        (hole_2B[i] * n).floor().clamp(max=n - 1) - side // 2 for i, n in ((0, H), (1, W))
    )
    hole_B1HW = rectangles(top_B, top_B + side, left_B, left_B + side, H, W)
    return torch.where(hole_B1HW, fill_C.to(images_BCHW).view(1, -1, 1, 1), images_BCHW)


def erased(
    images_BCHW: Tensor, tries_2BT: Tensor, place_2B: Tensor, chosen_B: Tensor, fill_C: Tensor
) -> Tensor:
    """Cover a rectangle of some images (Zhong et al. 2020, arXiv:1708.04896, algorithm 1).

    Its colour is one of the settings of the paper's table, the mean; areas and aspects are
    torchvision's. The rectangle lies within the image, smaller than it in both directions; an image
    into which none of the tries fits stays as it is.

    Args:
        images_BCHW: uint8.
        tries_2BT: areas and aspects of rectangles; these and what follows on the CPU.
        place_2B: the rectangle's place, uniform in [0, 1).
        chosen_B: which images lose a rectangle.
        fill_C: uint8, its colour.
    """
    _, _, H, W = images_BCHW.shape
    box_4B, fits_B = fitting_boxes(tries_2BT, place_2B, height=H, width=W, spare=1)
    top_B, left_B, height_B, width_B = sent(box_4B, images_BCHW.device)
    hole_B1HW = rectangles(top_B, top_B + height_B, left_B, left_B + width_B, H, W)
    hole_B1HW &= sent(chosen_B & fits_B, images_BCHW.device)[:, None, None, None]
    return torch.where(hole_B1HW, fill_C.to(images_BCHW).view(1, -1, 1, 1), images_BCHW)


def rectangles(
    top_B: Tensor, bottom_B: Tensor, left_B: Tensor, right_B: Tensor, height: int, width: int
) -> Tensor:
    """Which pixels lie from the top to before the bottom and from the left to before the right.

    Returns:
        A mask of shape B1HW.
    """
    rows_H, cols_W = (torch.arange(n, device=top_B.device) for n in (height, width))
    row_BH = (rows_H >= top_B[:, None]) & (rows_H < bottom_B[:, None])
    col_BW = (cols_W >= left_B[:, None]) & (cols_W < right_B[:, None])
    return (row_BH[:, :, None] & col_BW[:, None, :])[:, None]
