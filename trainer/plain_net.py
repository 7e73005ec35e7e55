"""A plain convolutional network for images of 8 to 16 pixels."""

from torch import nn

from trainer.layers import Trunk, conv3x3


def plain_net(width: int, channels: int) -> Trunk:
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
    return Trunk(layers, width_in)
