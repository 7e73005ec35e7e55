"""EfficientNet-Lite: EfficientNets (Tan & Le 2019, arXiv:1905.11946) for int8 and small machines.

As published with TensorFlow's models: table 1 of the paper without squeeze-and-excitation, ReLU6
instead of swish, and a stem and a last convolution that do not grow with the network. Convolutions
pad as TensorFlow does, with more zeros at the end than at the beginning where the numbers differ.

Shapes: B images, C channels, H height, W width.
"""

from math import ceil

from torch import Tensor, nn
from torch.nn.functional import pad

from snapensemble.trainer.models.layers import Backbone

STEM, TOP = 32, 1280  # channels of the first and the last convolution
# Of stages 1 to 7: expansion, channels, blocks, stride, kernel.
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
# Of Lite0, 1 and 2: factors of channels and of blocks, and the dropout before the last layer.
SCALES = ((1.0, 1.0, 0.2), (1.0, 1.1, 0.2), (1.1, 1.2, 0.3))


class SamePadded(nn.Conv2d):
    """A convolution without bias whose output is the input's size over the stride, rounded up."""

    def __init__(self, width_in: int, width: int, kernel: int, stride: int, groups: int) -> None:
        # Where both ends get the same, the convolution itself pads.
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(width_in, width, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x_BCHW -> B, width, H / stride, W / stride."""
        if self.stride[0] > 1:
            left, right = self._zeros(x.shape[3])
            top, bottom = self._zeros(x.shape[2])
            x = pad(x, (left, right, top, bottom))
        return super().forward(x)

    def _zeros(self, size: int) -> tuple[int, int]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = max(0, (ceil(size / stride) - 1) * stride + kernel - size)
        return total // 2, total - total // 2


class MBConv(nn.Module):
    """Expand the channels, convolve each alone, project them back; add the input if it fits."""

    def __init__(
        self, width_in: int, width: int, *, expansion: int, stride: int, kernel: int
    ) -> None:
        super().__init__()
        hidden = width_in * expansion
        expand = conv_bn(width_in, hidden) if expansion > 1 else []
        self.layers = nn.Sequential(
            *expand,
            *conv_bn(hidden, hidden, kernel, stride, groups=hidden),
            *conv_bn(hidden, width)[:-1],  # what is added up is linear
        )
        self.adds = stride == 1 and width_in == width

    def forward(self, x: Tensor) -> Tensor:
        """x_BCHW -> B, width, H / stride, W / stride."""
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


def conv_bn(
    width_in: int, width: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """A convolution, batch normalisation as the published weights had it, and ReLU6."""
    return [
        SamePadded(width_in, width, kernel, stride, groups),
        nn.BatchNorm2d(width, eps=1e-3, momentum=0.01),
        nn.ReLU6(inplace=True),
    ]


def efficientnet_lite(number: int, channels: int) -> Backbone:
    """EfficientNet-Lite `number`: the stem, seven stages and the last convolution, a layer each.

    Channels are scaled and rounded in every stage, blocks in all but the first and the last one.

    Args:
        number: which of `SCALES`.
        channels: of the images.
    """
    width, depth, dropout = SCALES[number]
    layers: list[nn.Module] = [nn.Sequential(*conv_bn(channels, STEM, 3, 2))]
    width_in = STEM
    for stage, (expansion, base, blocks, stride, kernel) in enumerate(STAGES, 1):
        scaled = rounded(base * width)
        count = blocks if stage in (1, len(STAGES)) else ceil(blocks * depth)
        stage_blocks = []
        for block in range(count):
            stage_blocks.append(
                MBConv(
                    width_in,
                    scaled,
                    expansion=expansion,
                    stride=stride if block == 0 else 1,
                    kernel=kernel,
                )
            )
            width_in = scaled
        layers.append(nn.Sequential(*stage_blocks))
    layers.append(nn.Sequential(*conv_bn(width_in, TOP)))
    names = ("stem", *(f"stage{stage}" for stage in range(1, len(STAGES) + 1)), "top")
    return Backbone(layers, TOP, dropout, names)


def rounded(channels: float) -> int:
    """The nearest multiple of 8, but not less than nine tenths of `channels`."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
