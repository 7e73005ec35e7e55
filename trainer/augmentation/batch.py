"""Augmentation: random numbers for a whole batch first, then images by those numbers.

The draws come from a generator on the CPU and do not depend on the images, so that they are the
same on every device, and processes that share a batch can each apply their rows of them.

Shapes: B images, C channels, H height, W width, T tries.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.pixels import ImageContract
from snapensemble.trainer.augmentation.colour import Blend, blended
from snapensemble.trainer.augmentation.geometry import (
    TRIES,
    areas_and_aspects,
    crop_boxes,
    resized,
    shifted,
)
from snapensemble.trainer.augmentation.holes import ERASED_AREAS, ERASED_ASPECTS, cut_out, erased
from snapensemble.trainer.augmentation.trivial import draw_trivial, trivially_augmented
from snapensemble.trainer.device.transfers import sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How images are changed before each step; by default not at all.

    `crop_padding` and `cutout` (a square's side) are in pixels; `min_area` is the smallest fraction
    of an image that a resized crop shows, 1 for no such crop; `size` is the crop's height and
    width, where they are not the image's. `trivial` is TrivialAugment. `jitter` is how far
    brightness, contrast and saturation may be from 1; `erasing` is the share of images that lose a
    rectangle.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0
    min_area: float = 1.0
    size: tuple[int, int] | None = None
    trivial: bool = False
    jitter: float = 0.0
    erasing: float = 0.0

    def __post_init__(self) -> None:
        if min(self.crop_padding, self.cutout) < 0:
            raise InvalidConfig("crop_padding and cutout must not be negative")
        if not (0 <= self.jitter <= 1 and 0 <= self.erasing <= 1):
            raise InvalidConfig(
                f"jitter and erasing must be in [0, 1], got {self.jitter} and {self.erasing}"
            )
        if not 0 < self.min_area <= 1:
            raise InvalidConfig(f"min_area must be in (0, 1], got {self.min_area}")
        if self.size is not None and self.min_area == 1:
            raise InvalidConfig(
                "only resized crops can have another size; min_area must be below 1"
            )


@dataclass(frozen=True, slots=True)
class Draws:
    """The random numbers of one batch; None where nothing needs them."""

    settings: Augmentation
    shift_2B: Tensor
    mirrored_B: Tensor
    tries_2BT: Tensor | None = None
    place_2B: Tensor | None = None
    hole_2B: Tensor | None = None
    trivial_3B: Tensor | None = None
    jitter_3B: Tensor | None = None  # a factor for each blend
    order_3B: Tensor | None = None  # of the blends
    erased_B: Tensor | None = None
    hole_tries_2BT: Tensor | None = None
    hole_place_2B: Tensor | None = None

    def rows(self, part: slice | Tensor) -> "Draws":
        """What `augment` needs for some images of the batch."""
        parts: dict[str, Any] = {
            field.name: numbers[part] if numbers.ndim == 1 else numbers[:, part]
            for field in fields(self)
            if isinstance(numbers := getattr(self, field.name), Tensor)
        }
        return replace(self, **parts)


def draw_augmentation(batch: int, settings: Augmentation, generator: torch.Generator) -> Draws:
    """Draw the random numbers for `batch` images.

    Shifts and mirrorings are always drawn, and first: a setting that is off takes nothing from the
    generator that another would get.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    padding = settings.crop_padding
    shift_2B = torch.randint(-padding, padding + 1, (2, batch), generator=generator)
    mirrored_B = uniform(batch) < (0.5 if settings.flip else 0.0)
    more: dict[str, Tensor] = {}
    if settings.min_area < 1:
        # Computed here for the whole batch: the last bit of exp may depend on its neighbours.
        more["tries_2BT"] = areas_and_aspects(uniform(2, batch, TRIES), (settings.min_area, 1.0))
        more["place_2B"] = uniform(2, batch)
    if settings.cutout > 0:
        more["hole_2B"] = uniform(2, batch)
    if settings.trivial:
        more["trivial_3B"] = draw_trivial(batch, generator)
    if settings.jitter > 0:
        more["jitter_3B"] = 1 + settings.jitter * (2 * uniform(len(Blend), batch) - 1)
        more["order_3B"] = uniform(len(Blend), batch).argsort(dim=0)
    if settings.erasing > 0:
        more["erased_B"] = uniform(batch) < settings.erasing
        more["hole_tries_2BT"] = areas_and_aspects(
            uniform(2, batch, TRIES), ERASED_AREAS, ERASED_ASPECTS
        )
        more["hole_place_2B"] = uniform(2, batch)
    return Draws(settings, shift_2B, mirrored_B, **more)


def augment(images_BCHW: Tensor, draws: Draws, fill_C: Tensor) -> Tensor:
    """Crop and resize, shift and mirror, change colours, then cut out, as the settings say.

    Args:
        images_BCHW: uint8, on any device.
        draws: for exactly these images; on the CPU.
        fill_C: uint8, the colour of what is cut out; see `fill_colour`.

    Returns:
        The type and device of `images_BCHW`, and its shape but for the `size` of crops.
    """
    settings, device = draws.settings, images_BCHW.device
    if draws.tries_2BT is not None and draws.place_2B is not None:
        H, W = images_BCHW.shape[2:]
        box_4B = crop_boxes(draws.tries_2BT, draws.place_2B, height=H, width=W)
        images_BCHW = resized(images_BCHW, sent(box_4B, device), *(settings.size or (H, W)))
    if settings.crop_padding > 0 or settings.flip:
        images_BCHW = shifted(
            images_BCHW, sent(draws.shift_2B, device), sent(draws.mirrored_B, device)
        )
    if draws.trivial_3B is not None:
        images_BCHW = trivially_augmented(images_BCHW, draws.trivial_3B)
    if draws.jitter_3B is not None and draws.order_3B is not None:
        images_BCHW = jittered(
            images_BCHW, sent(draws.jitter_3B, device), sent(draws.order_3B, device)
        )
    if draws.hole_2B is not None:
        images_BCHW = cut_out(
            images_BCHW, sent(draws.hole_2B, device), side=settings.cutout, fill_C=fill_C
        )
    tries_2BT, place_2B, chosen_B = draws.hole_tries_2BT, draws.hole_place_2B, draws.erased_B
    if tries_2BT is not None and place_2B is not None and chosen_B is not None:
        images_BCHW = erased(images_BCHW, tries_2BT, place_2B, chosen_B, fill_C=fill_C)
    return images_BCHW


def jittered(images_BCHW: Tensor, factor_3B: Tensor, order_3B: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of each image, in an order of its own.

    Args:
        images_BCHW: uint8.
        factor_3B: in the order of `Blend`.
        order_3B: which of them comes first, second and third.
    """
    for blend_B in order_3B:
        factor_B = factor_3B.gather(0, blend_B[None]).squeeze(0)
        images_BCHW = blended(images_BCHW, blend_B, factor_B)
    return images_BCHW


def fill_colour(image: ImageContract) -> Tensor:
    """fill_C: the mean of the training images per channel, uint8; nearly zero to the network."""
    return torch.tensor([round(mean * 255) for mean in image.mean]).clamp(0, 255).to(torch.uint8)
