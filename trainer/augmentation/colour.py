"""What becomes of an image's colours: the operations of Pillow, for many images at once.

Each gives uint8, by rounding where Pillow and torchvision cut off, so that a value may be one
higher than theirs. Sums are of whole numbers: they do not depend on how many images there are.

Shapes: B images, C channels (1 or 3), H height, W width.
"""

from enum import IntEnum

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

LUMA = 0.299, 0.587, 0.114  # ITU-R 601, as Pillow


class Blend(IntEnum):
    """What an image is blended with."""

    BRIGHTNESS = 0  # black
    CONTRAST = 1  # the mean of its grey values
    SATURATION = 2  # its grey values


def blended(images_BCHW: Tensor, blend_B: Tensor, factor_B: Tensor) -> Tensor:
    """Change the brightness, contrast or saturation of each image.

    Args:
        images_BCHW: uint8.
        blend_B: which of these, see `Blend`.
        factor_B: 1 changes nothing, 0 gives what is blended with, more than 1 exaggerates.
    """
    grey_B1HW = grey(images_BCHW)
    _, _, H, W = grey_B1HW.shape
    level_B = (grey_B1HW.sum(dim=(1, 2, 3), dtype=torch.int64) / (H * W)).round()
    flat_B = torch.where(blend_B == Blend.CONTRAST, level_B.float(), 0.0)
    is_grey_B111 = (blend_B == Blend.SATURATION)[:, None, None, None]
    other_B1HW = torch.where(is_grey_B111, grey_B1HW, flat_B[:, None, None, None])
    return _pixels(other_B1HW + factor_B[:, None, None, None] * (images_BCHW - other_B1HW))


def grey(images_BCHW: Tensor) -> Tensor:
    """grey_B1HW: whole numbers, float32."""
    if images_BCHW.shape[1] == 1:
        return images_BCHW.float()
    red, green, blue = torch.chunk(images_BCHW.float(), 3, dim=1)
    return torch.round(LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)


def sharpened(images_BCHW: Tensor, factor_B: Tensor) -> Tensor:
    """Blend each image with a smoothed one; a factor of 0 gives that, more than 1 sharpens.

    The outermost pixels stay as they are, and so does an image of fewer than three a side.
    """
    if min(images_BCHW.shape[2:]) < 3:
        return images_BCHW
    own_BCHW = images_BCHW.float()
    inner_BCHW = own_BCHW[:, :, 1:-1, 1:-1]
    nine_BCHW = avg_pool2d(own_BCHW, 3, stride=1, divisor_override=1)  # the sum of 3 x 3 pixels
    smooth_BCHW = ((nine_BCHW + 4 * inner_BCHW) / 13).round()
    found_BCHW = images_BCHW.clone()
    sharp_BCHW = smooth_BCHW + factor_B[:, None, None, None] * (inner_BCHW - smooth_BCHW)
    found_BCHW[:, :, 1:-1, 1:-1] = _pixels(sharp_BCHW)
    return found_BCHW


def posterised(images_BCHW: Tensor, bits_B: Tensor) -> Tensor:
    """Keep the highest bits of each value, so many of 8."""
    mask_B = (256 - 2 ** (8 - bits_B)).to(torch.uint8)
    return images_BCHW & mask_B[:, None, None, None]


def solarised(images_BCHW: Tensor, threshold_B: Tensor) -> Tensor:
    """Invert the values that are not below the threshold."""
    return torch.where(
        images_BCHW >= threshold_B[:, None, None, None], 255 - images_BCHW, images_BCHW
    )


def auto_contrasted(images_BCHW: Tensor) -> Tensor:
    """Stretch each channel so that its values reach from 0 to 255; one that is even stays."""
    low_BC11, high_BC11 = (
        reduce(images_BCHW, dim=(2, 3), keepdim=True).float() for reduce in (torch.amin, torch.amax)
    )
    even_BC11 = high_BC11 == low_BC11
    scale_BC11 = 255 / torch.where(even_BC11, 1.0, high_BC11 - low_BC11)
    stretched_BCHW = _pixels((images_BCHW - low_BC11) * scale_BC11)
    return torch.where(even_BC11, images_BCHW, stretched_BCHW)


def equalised(images_BCHW: Tensor) -> Tensor:
    """Map the values of each channel so that all are about equally frequent, as Pillow does."""
    B, C, H, W = images_BCHW.shape
    values_BCP = images_BCHW.reshape(B, C, H * W).long()
    counts_BCV = torch.zeros(B, C, 256, dtype=torch.int64, device=images_BCHW.device)
    counts_BCV.scatter_add_(2, values_BCP, torch.ones_like(values_BCP))
    highest_BC1 = values_BCP.amax(dim=2, keepdim=True)
    step_BC1 = (H * W - counts_BCV.gather(2, highest_BC1)) // 255
    below_BCV = counts_BCV.cumsum(dim=2) - counts_BCV
    map_BCV = ((below_BCV + step_BC1 // 2) // step_BC1.clamp(min=1)).clamp(max=255)
    found_BCP = torch.where(step_BC1 == 0, values_BCP, map_BCV.gather(2, values_BCP))
    return found_BCP.to(torch.uint8).view(B, C, H, W)


def _pixels(values_BCHW: Tensor) -> Tensor:
    return values_BCHW.round().clamp(0, 255).to(torch.uint8)
