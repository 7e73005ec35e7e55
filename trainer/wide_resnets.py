"""Wide residual networks of Zagoruyko & Komodakis 2016 (arXiv:1605.07146)."""

from torch import Tensor, nn

from trainer.layers import Trunk, conv3x3, relu_


class PreActivationBlock(nn.Module):
    """Normalise and rectify before each 3x3 convolution (the paper's block B(3,3), section 2).

    Where the shape changes, the shortcut is a 1x1 convolution of the rectified input, as in the
    authors' code; elsewhere it is the input itself.
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


def wide_resnet(blocks: int, widening: int, channels: int) -> Trunk:
    """Three groups of `blocks` blocks, with 16, 32 and 64 times `widening` channels (table 1).

    The paper's name WRN-d-k counts d = 6 * blocks + 4 layers: 2 for WRN-16, 4 for WRN-28. It
    counts the shortcuts' convolutions too. The "Wide-ResNet-32, 4 times the width" of Huang et al.
    2017 (Snapshot Ensembles, arXiv:1704.00109, section 4) fits no such d. It is counted here as
    He et al. count, 6 * blocks + 2: 5 blocks, which Zagoruyko and Komodakis would call WRN-34-4.

    Without dropout: the first paper's tables gain little by it.
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
    return Trunk(layers, width_in)
