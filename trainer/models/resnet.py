"""Residual networks, plain and wide.

He et al. 2016 (arXiv:1512.03385); Zagoruyko & Komodakis 2016 (arXiv:1605.07146).
"""

from typing import cast

from torch import Tensor, nn

from snapensemble.trainer.models.layers import Backbone, conv3x3, relu_


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(width_in, width, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width), nn.BatchNorm2d(width)
        self.shortcut = _shortcut(width_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """x_BCHW -> B, width, H / stride, W / stride."""
        y = self.bn2(self.conv2(relu_(self.bn1(self.conv1(x)))))
        y += self.shortcut(x)
        return relu_(y)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (He et al. 2016, figure 5).

    The stride is in the 3x3 convolution, as in Goyal et al. 2017 (arXiv:1706.02677, section 5.1)
    and in the weights that are published; He et al. had it in the 1x1 before.
    """

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        inner = width // 4
        self.conv1, self.bn1 = nn.Conv2d(width_in, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = conv3x3(inner, inner, stride), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)
        self.shortcut = _shortcut(width_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """x_BCHW -> B, width, H / stride, W / stride."""
        y = relu_(self.bn1(self.conv1(x)))
        y = relu_(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += self.shortcut(x)
        return relu_(cast(Tensor, y))


class PreActivationBlock(nn.Module):
    """Normalise and rectify before each 3x3 convolution (Zagoruyko & Komodakis 2016, section 2).

    This is their block B(3,3). Where the shape changes, the shortcut is a 1x1 convolution of the
    rectified input, as in the authors' code; elsewhere it is the input itself.
    """

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(width_in), conv3x3(width_in, width, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv3x3(width, width)
        self.shortcut: nn.Module | None = None
        if stride != 1 or width_in != width:
            self.shortcut = nn.Conv2d(width_in, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x_BCHW -> B, width, H / stride, W / stride."""
        rectified = relu_(self.bn1(x))
        y: Tensor = self.conv2(relu_(self.bn2(self.conv1(rectified))))
        y += x if self.shortcut is None else self.shortcut(rectified)
        return y


def cifar_resnet(depth: int, channels: int) -> Backbone:
    """The 6n+2 layer ResNet for small images (He et al. 2016, section 4.2)."""
    stem = [conv3x3(channels, 16), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    return _stack(stem, BasicBlock, 16, ((depth - 2) // 6,) * 3, (16, 32, 64))


def imagenet_resnet(
    block: type[BasicBlock] | type[Bottleneck],
    counts: tuple[int, ...],
    widths: tuple[int, ...],
    channels: int,
) -> Backbone:
    """The ResNet for images of 64 pixels and more (He et al. 2016, table 1).

    Its stem makes them four times smaller: a 7x7 convolution and a maximum, both at stride 2.
    """
    stem = [
        nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]
    return _stack(stem, block, 64, counts, widths)


def wide_resnet(blocks: int, widening: int, channels: int) -> Backbone:
    """Three groups of `blocks` blocks, with 16, 32 and 64 times `widening` channels.

    The name WRN-d-k (Zagoruyko & Komodakis 2016, table 1) counts d = 6 * blocks + 4 layers, with
    the shortcuts' convolutions: 2 blocks for WRN-16, 4 for WRN-28. The "Wide-ResNet-32, 4 times
    the width" of Huang et al. 2017 (Snapshot Ensembles, arXiv:1704.00109, section 4) fits no such
    d. It is counted here as He et al. count, 6 * blocks + 2: 5 blocks, which Zagoruyko and
    Komodakis would call WRN-34-4.

    There is no dropout: the tables of Zagoruyko & Komodakis gain little by it.
    """
    layers: list[nn.Module] = [conv3x3(channels, 16)]
    width_in = 16
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        for index in range(blocks):
            layers.append(
                PreActivationBlock(width_in, width * widening, stride if index == 0 else 1)
            )
            width_in = width * widening
    layers += [nn.BatchNorm2d(width_in), nn.ReLU(inplace=True)]
    return Backbone(layers, width_in)


def _stack(
    stem: list[nn.Module],
    block: type[BasicBlock] | type[Bottleneck],
    width_in: int,
    counts: tuple[int, ...],
    widths: tuple[int, ...],
) -> Backbone:
    """The stem, then groups of blocks; each group but the first begins by halving the image."""
    layers = list(stem)
    for group, (count, width) in enumerate(zip(counts, widths, strict=True)):
        for index in range(count):
            layers.append(block(width_in, width, 2 if group > 0 and index == 0 else 1))
            width_in = width
    return Backbone(layers, width_in)


def _shortcut(width_in: int, width: int, stride: int) -> nn.Module:
    # Option B of He et al., a 1x1 convolution where the shape changes: it is one more
    # convolution to ONNX Runtime, where option A's slice and pad would break its layout.
    if stride == 1 and width_in == width:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))
