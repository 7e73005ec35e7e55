"""Networks by name. Each takes uint8 images and gives logits; the normalisation is its first layer.

Shapes: B images, C channels, H height, W width, K classes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from contracts.errors import InvalidConfig
from contracts.pixels import ImageContract


class Classifier(nn.Module):
    """uint8 images in, logits out: what is trained is what is exported."""

    def __init__(self, features: nn.Module, width: int, classes: int, image: ImageContract) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(width, classes)
        # In units of pixels: one subtraction and one product in the graph. The names are long
        # because the ONNX exporter once mixed up a buffer called `mean` with an operator's output.
        self.register_buffer("pixel_mean", _per_channel(image.mean) * 255, persistent=False)
        self.register_buffer("pixel_scale", 1 / (_per_channel(image.std) * 255), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """logits_BK, float32, for images_BCHW, uint8."""
        pixel_mean, pixel_scale = cast(Tensor, self.pixel_mean), cast(Tensor, self.pixel_scale)
        normalised = (images.to(pixel_mean.dtype) - pixel_mean) * pixel_scale
        return cast(Tensor, self.head(self.features(normalised).mean(dim=(2, 3))))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, arXiv:1512.03385, figure 2)."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv3x3(width_in, width, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv3x3(width, width), nn.BatchNorm2d(width)
        # Option B of the paper, a 1x1 convolution where the shape changes: it is one more
        # convolution to ONNX Runtime, where option A's slice and pad would break its layout.
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """x_BCHW -> B, width, H / stride, W / stride."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def cifar_resnet(depth: int, classes: int, image: ImageContract) -> Classifier:
    """The 6n+2 layer ResNet for small images (He et al. 2016, section 4.2)."""
    blocks = (depth - 2) // 6
    layers: list[nn.Module] = [_conv3x3(image.channels, 16), nn.BatchNorm2d(16), nn.ReLU()]
    width_in = 16
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        for index in range(blocks):
            layers.append(BasicBlock(width_in, width, stride if index == 0 else 1))
            width_in = width
    return Classifier(nn.Sequential(*layers), 64, classes, image)


def plain_net(width: int, classes: int, image: ImageContract) -> Classifier:
    """Four 3x3 convolutions, for images of 8 to 16 pixels."""
    layers: list[nn.Module] = []
    width_in: int = image.channels
    for width_out, stride in ((width, 1), (width, 1), (2 * width, 2), (2 * width, 1)):
        layers += [_conv3x3(width_in, width_out, stride), nn.BatchNorm2d(width_out), nn.ReLU()]
        width_in = width_out
    return Classifier(nn.Sequential(*layers), width_in, classes, image)


MODELS: dict[str, Callable[[int, ImageContract], Classifier]] = {
    "tiny": partial(plain_net, 8),
    "small": partial(plain_net, 32),
    **{f"resnet{depth}": partial(cifar_resnet, depth) for depth in (20, 32, 44, 56, 110)},
}


def default_model(image: ImageContract) -> str:
    """`small` up to 16 pixels, `resnet20` above."""
    return "small" if max(image.height, image.width) <= 16 else "resnet20"


def build_model(name: str, classes: int, image: ImageContract) -> Classifier:
    """A freshly initialised network.

    Raises:
        InvalidConfig: no network has this name.
    """
    if name not in MODELS:
        raise InvalidConfig(f"unknown model {name!r}; choose one of {', '.join(MODELS)}")
    model = MODELS[name](classes, image)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def parameter_count(model: nn.Module) -> int:
    """How many numbers the optimizer changes."""
    return sum(p.numel() for p in model.parameters())


def _conv3x3(width_in: int, width: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
