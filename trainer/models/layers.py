"""What the architectures share: a backbone's shape, and steps that need no memory of their own.

A batch normalisation does not need its output to go backward, nor does a sum or a convolution: what
follows them may write over it. The bits are the same, the traffic to memory is less.
"""

from typing import NamedTuple

from torch import Tensor, nn


class Backbone(NamedTuple):
    """The layers up to the last feature maps, and how many channels those have."""

    layers: list[nn.Module]
    width: int
    dropout: float = 0.0  # of their means, before the last layer
    names: tuple[str, ...] = ()  # of the layers, where fine-tuning may begin with one


def conv3x3(width_in: int, width: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size at stride 1; the norm after it brings the bias."""
    return nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)


def relu_(x: Tensor) -> Tensor:
    """The positive part, written over `x`."""
    return nn.functional.relu(x, inplace=True)
