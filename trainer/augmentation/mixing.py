"""Mixup and CutMix: each example is made of two, and its label of theirs.

The second one of a pair is the next of the batch, which is shuffled; the last one's is the first.

Shapes: B examples, D what an example has, H height, W width.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.trainer.augmentation.holes import rectangles
from snapensemble.trainer.device.transfers import sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixing:
    """How pairs are mixed; with both, every pair by the one or the other, at random.

    Each is the alpha of Beta(alpha, alpha), from which the share of a pair's first one is drawn; 0
    for none of it.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if min(self.mixup, self.cutmix) < 0 or not self.mixup + self.cutmix:
            raise InvalidConfig("mixup and cutmix must not be negative, nor both be 0")


class Pairs(NamedTuple):
    """The labels of mixed examples."""

    first_B: Tensor
    second_B: Tensor
    share_B: Tensor  # of the first, in [0, 1]


@dataclass(frozen=True, slots=True)
class MixingDraws:
    """The random numbers of one batch."""

    share_B: Tensor  # of a pair's first one, before a box is cut at the edges
    cut_B: Tensor  # whether the pair is mixed by CutMix
    place_2B: Tensor  # the middle of the box from the top and from the left, in [0, 1)

    def rows(self, part: slice) -> "MixingDraws":
        """The draws of a part of the batch."""
        return replace(
            self,
            share_B=self.share_B[part],
            cut_B=self.cut_B[part],
            place_2B=self.place_2B[:, part],
        )


def draw_mixing(batch: int, mixing: Mixing, numbers: torch.Generator) -> MixingDraws:
    """Draw how each of `batch` pairs is mixed."""
    # Torch draws no Beta from a generator of one's own.
    seed = int(torch.randint(2**62, (1,), generator=numbers))
    beta = np.random.default_rng(seed)
    both = mixing.mixup > 0 < mixing.cutmix
    cut_B = beta.random(batch) < (0.5 if both else float(mixing.cutmix > 0))
    alpha_B = np.where(cut_B, mixing.cutmix, mixing.mixup)
    share_B = beta.beta(alpha_B, alpha_B).astype(np.float32)
    place_2B = beta.random((2, batch), dtype=np.float32)
    return MixingDraws(
        torch.from_numpy(share_B), torch.from_numpy(cut_B), torch.from_numpy(place_2B)
    )


def partners(mine: slice, batch: int) -> Tensor:
    """The rows of a batch that a part of it is made of: its own, and one after them."""
    return torch.arange(mine.start, mine.stop + 1) % batch


def mixed(inputs_XD: Tensor, labels_X: Tensor, draws: MixingDraws) -> tuple[Tensor, Pairs]:
    """Mix each of B examples with the next one.

    Mixup (Zhang et al. 2018, arXiv:1710.09412, equation 1) blends the two. CutMix (Yun et al. 2019,
    arXiv:1905.04899, equations 1 and 2) puts a box of the second one into the first, of which the
    share then is what is left, the box being cut at the edges.

    Args:
        inputs_XD: B + 1 images, or features of them.
        labels_X: their classes.
        draws: of B examples.

    Returns:
        Examples of the type of `inputs_XD`, and what they are.
    """
    device, share_B = inputs_XD.device, draws.share_B
    first_BD, second_BD = inputs_XD[:-1], inputs_XD[1:]
    weight_BD = sent(share_B.view(-1, *[1] * (inputs_XD.ndim - 1)), device)
    if draws.cut_B.any():
        H, W = inputs_XD.shape[2:]
        box_4B = boxes(share_B, draws.place_2B, H, W)
        top_B, bottom_B, left_B, right_B = box_4B
        cut_away_B = (bottom_B - top_B) * (right_B - left_B) / (H * W)
        share_B = torch.where(draws.cut_B, 1 - cut_away_B, share_B)
        top_B, bottom_B, left_B, right_B = sent(box_4B, device)
        outside_B1HW = ~rectangles(top_B, bottom_B, left_B, right_B, H, W)
        is_cut_B111 = sent(draws.cut_B.view(-1, 1, 1, 1), device)
        weight_BD = torch.where(is_cut_B111, outside_B1HW.float(), weight_BD)
    # Differences of uint8 would wrap around.
    mixed_BD = second_BD + weight_BD * (first_BD.float() - second_BD.float())
    if inputs_XD.dtype == torch.uint8:
        mixed_BD = mixed_BD.round().to(torch.uint8)
    elif inputs_XD.ndim == 4:  # maps: convolutions are faster so
        mixed_BD = mixed_BD.contiguous(memory_format=torch.channels_last)
    return mixed_BD, Pairs(labels_X[:-1], labels_X[1:], sent(share_B, device))


def boxes(share_B: Tensor, place_2B: Tensor, height: int, width: int) -> Tensor:
    """Top, bottom, left and right, in pixels, of boxes of 1 - `share_B` of the area.

    A box has the image's aspect. Its middle may be anywhere, and what lies outside is cut off, so
    that it may be smaller.
    """
    side_B = (1 - share_B).sqrt()
    edges = []
    for place_B, size in zip(place_2B, (height, width), strict=True):
        middle_B = (place_B * size).floor().clamp(max=size - 1)
        half_B = (side_B * size / 2).floor()
        edges += [(middle_B - half_B).clamp(min=0), (middle_B + half_B).clamp(max=size)]
    return torch.stack(edges)
