"""Augmentation: random numbers for a whole batch first, then images by those numbers.

The draws come from a generator on the CPU and do not depend on the images, so that they are the
same on every device, and machines that share a batch can each apply their rows of them.

Shapes: B images, C channels, H height, W width, T tries.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from contracts.errors import InvalidConfig
from contracts.pixels import ImageContract
from trainer import distort


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How images are changed before each step; by default not at all.

    `crop_padding` and `cutout` (a square's side) are in pixels; `min_area` is the smallest fraction
    of an image that a resized crop shows, 1 for no such crop.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0
    min_area: float = 1.0

    def __post_init__(self) -> None:
        if min(self.crop_padding, self.cutout) < 0:
            raise InvalidConfig("crop_padding and cutout must not be negative")
        if not 0 < self.min_area <= 1:
            raise InvalidConfig(f"min_area must be in (0, 1], got {self.min_area}")


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
    """Random numbers for `batch` images.

    Shifts and mirrorings are always drawn, and first: what is off takes nothing from the generator
    that another setting would get.
    """
    padding = settings.crop_padding
    shift_2B = torch.randint(-padding, padding + 1, (2, batch), generator=generator)
    mirrored_B = torch.rand(batch, generator=generator) < (0.5 if settings.flip else 0.0)
    tries_2BT = place_2B = hole_2B = None
    if settings.min_area < 1:
        # Here and not for part of a batch: the last bit of exp may depend on what is beside it.
        uniform_2BT = torch.rand(2, batch, distort.TRIES, generator=generator)
        tries_2BT = distort.areas_and_aspects(uniform_2BT, settings.min_area)
        place_2B = torch.rand(2, batch, generator=generator)
    if settings.cutout > 0:
        hole_2B = torch.rand(2, batch, generator=generator)
    return Draws(settings, shift_2B, mirrored_B, tries_2BT, place_2B, hole_2B)


def augment(images_BCHW: Tensor, draws: Draws, fill_C: Tensor) -> Tensor:
    """Crop and resize, then shift and mirror, then cut out: what the settings ask for.

    Args:
        images_BCHW: uint8, on any device.
        draws: for exactly these images.
        fill_C: uint8, the colour of what is cut out; see `fill_colour`.

    Returns:
        The same shape, type and device as `images_BCHW`.
    """
    settings, device = draws.settings, images_BCHW.device
    if draws.tries_2BT is not None and draws.place_2B is not None:
        H, W = images_BCHW.shape[2:]
        box_4B = distort.crop_boxes(draws.tries_2BT, draws.place_2B, height=H, width=W)
        images_BCHW = distort.resized(images_BCHW, box_4B.to(device))
    if settings.crop_padding > 0 or settings.flip:
        images_BCHW = distort.shifted(
            images_BCHW, draws.shift_2B.to(device), draws.mirrored_B.to(device)
        )
    if draws.hole_2B is not None:
        images_BCHW = distort.cut_out(
            images_BCHW, draws.hole_2B.to(device), side=settings.cutout, fill_C=fill_C
        )
    return images_BCHW


def fill_colour(image: ImageContract) -> Tensor:
    """fill_C: the mean of the training images per channel, uint8; zero to the network, nearly."""
    return torch.tensor([round(mean * 255) for mean in image.mean]).clamp(0, 255).to(torch.uint8)
