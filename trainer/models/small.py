"""Networks for small images: a plain one, and DenseNets (Huang et al. 2017, arXiv:1608.06993)."""

import torch
from torch import Tensor, nn

from snapensemble.trainer.models.layers import Backbone, conv3x3, relu_


def plain_net(width: int, channels: int) -> Backbone:
    """Four 3x3 convolutions, each with batch normalisation and ReLU; the third halves the image.

    Args:
        width: channels of the first two; the others have twice as many.
        channels: of the images.
    """
    layers: list[nn.Module] = []
    width_in = channels
    for width_out, stride in ((width, 1), (width, 1), (2 * width, 2), (2 * width, 1)):
        layers += [
            conv3x3(width_in, width_out, stride),
            nn.BatchNorm2d(width_out),
            nn.ReLU(inplace=True),
        ]
        width_in = width_out
    return Backbone(layers, width_in)


class DenseLayer(nn.Module):
    """Normalise, rectify, convolve; the result is joined to the input (equation 2)."""

    def __init__(self, width_in: int, growth: int) -> None:
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(width_in), conv3x3(width_in, growth)

    def forward(self, x: Tensor) -> Tensor:
        """x_BCHW -> B, C + growth, H, W."""
        return torch.cat([x, self.conv(relu_(self.bn(x)))], dim=1)


def densenet(depth: int, growth: int, channels: int) -> Backbone:
    """The plain DenseNet for small images: no bottlenecks, no compression (section 3).

    Three dense blocks of (depth - 4) / 3 layers. Between two blocks a 1x1 convolution keeps the
    width, and an average over 2x2 pixels halves the image. There is no dropout: the paper uses it
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
    return Backbone(layers, width)
