"""Densely connected networks of Huang et al. 2017 (arXiv:1608.06993)."""

import torch
from torch import Tensor, nn

from trainer.layers import Trunk, conv3x3, relu_


class DenseLayer(nn.Module):
    """Normalise, rectify, convolve; the result is joined to the input (the paper's equation 2)."""

    def __init__(self, width_in: int, growth: int) -> None:
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(width_in), conv3x3(width_in, growth)

    def forward(self, x: Tensor) -> Tensor:
        """x_BCHW -> B, C + growth, H, W."""
        return torch.cat([x, self.conv(relu_(self.bn(x)))], dim=1)


def densenet(depth: int, growth: int, channels: int) -> Trunk:
    """The plain DenseNet for small images: no bottlenecks, no compression (section 3).

    Three dense blocks of (depth - 4) / 3 layers. Between two blocks a 1x1 convolution keeps the
    width, and an average over 2x2 pixels halves the image. Without dropout, which the paper uses
    only where images are not augmented.
    """
    layers: list[nn.Module] = [conv3x3(channels, 16)]
    width = 16
    for block in range(3):
        if block > 0:
            layers += [
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
                nn.Conv2d(width, width, 1, bias=False),
                nn.AvgPool2d(2),
            ]
        for _ in range((depth - 4) // 3):
            layers.append(DenseLayer(width, growth))
            width += growth
    layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return Trunk(layers, width)
