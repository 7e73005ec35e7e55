"""torchvision, whose operations those of the product are compared with, and pictures for both."""

from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snapensemble.trainer.models.timm import make_torchvision_importable

make_torchvision_importable()
transforms: Any = import_module("torchvision.transforms.v2")
functional: Any = import_module("torchvision.transforms.v2.functional")


def pictures(B: int = 6, C: int = 3, H: int = 21, W: int = 34, seed: int = 0) -> Tensor:
    """Smooth and noisy parts, dark and bright pictures: some of everything."""
    numbers = np.random.default_rng(seed)
    y, x = np.mgrid[0:H, 0:W]
    images = []
    for index in range(B):
        waves = [np.sin((index + 1 + c) * x / W * 3 + y / (H + c) * 4) for c in range(C)]
        image = np.stack(waves) * numbers.uniform(20, 120) + numbers.uniform(40, 200)
        image[:, H // 2 :] += numbers.normal(size=(C, H - H // 2, W)) * numbers.uniform(0, 40)
        images.append(image.clip(0, 255))
    return torch.from_numpy(np.stack(images).astype(np.uint8))


def furthest(one: Tensor, other: Tensor) -> int:
    """The largest difference of two values."""
    return int((one.int() - other.int()).abs().max())
