"""Pad, crop and flip a whole batch at once, on the device that holds it.

Shapes: B images, C channels, H height, W width.
"""

import torch
from torch import Tensor


def pad_crop_flip(
    images_BCHW: Tensor, *, padding: int, flip: bool, generator: torch.Generator
) -> Tensor:
    """Shift each image by up to `padding` pixels in both directions, mirror half of them.

    Pixels from beyond the edge are reflected. It is one gather with computed indices: nothing is
    padded or copied before. The draws come from `generator` (on the CPU), so that they are the
    same on every device.

    Returns:
        The same shape and type as `images_BCHW`.
    """
    B, C, H, W = images_BCHW.shape
    shift_2B = torch.randint(-padding, padding + 1, (2, B), generator=generator)
    mirrored_B = torch.rand(B, generator=generator) < (0.5 if flip else 0.0)
    rows_BH = _reflect(torch.arange(H) + shift_2B[0, :, None], H)
    cols_BW = _reflect(torch.arange(W) + shift_2B[1, :, None], W)
    cols_BW = torch.where(mirrored_B[:, None], cols_BW.flip(1), cols_BW)
    flat_BHW = (rows_BH[:, :, None] * W + cols_BW[:, None, :]).to(images_BCHW.device)
    flat_BCP = flat_BHW.view(B, 1, H * W).expand(B, C, H * W)
    return images_BCHW.reshape(B, C, H * W).gather(2, flat_BCP).view(B, C, H, W)


def _reflect(index: Tensor, size: int) -> Tensor:
    """Fold indices from (-size, 2 * size - 1) into [0, size), without repeating the edge."""
    inside = index.abs()
    return torch.where(inside >= size, 2 * (size - 1) - inside, inside)
