"""Networks by name. Each takes uint8 images and gives logits; the normalisation is its first layer.

Shapes: N, B images, C channels, H height, W width, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.pixels import ImageContract
from snapensemble.trainer.models import timm as timm_nets
from snapensemble.trainer.models.efficientnet_lite import SCALES, efficientnet_lite
from snapensemble.trainer.models.layers import Backbone
from snapensemble.trainer.models.pretrained import (
    PUBLISHED,
    load_pretrained,
    normalisation_of_file,
)
from snapensemble.trainer.models.resnet import (
    BasicBlock,
    Bottleneck,
    cifar_resnet,
    imagenet_resnet,
    wide_resnet,
)
from snapensemble.trainer.models.small import densenet, plain_net
from snapensemble.trainer.models.whitening import PatchWhitening
from snapensemble.trainer.options.network import FRESH, HUB

WHITEN = "+whiten"


class TakesImages(nn.Module):
    """Normalises uint8 images, in units of pixels: one subtraction and one product in the graph."""

    pixel_mean: Tensor
    pixel_scale: Tensor

    def __init__(self, image: ImageContract) -> None:
        super().__init__()
        self.image = image
        # The names are long because the ONNX exporter once mixed up a buffer called `mean` with an
        # operator's output.
        self.register_buffer("pixel_mean", _per_channel(image.mean) * 255, persistent=False)
        self.register_buffer("pixel_scale", 1 / (_per_channel(image.std) * 255), persistent=False)

    def normalised(self, images: Tensor) -> Tensor:
        """images_BCHW, uint8, with each channel's mean taken off, in units of its deviation."""
        return (images.to(self.pixel_mean.dtype) - self.pixel_mean) * self.pixel_scale


class Classifier(TakesImages):
    """uint8 images in, logits out: what is trained is what is exported."""

    def forward(self, images: Tensor) -> Tensor:
        """logits_BK, float32, for images_BCHW, uint8."""
        raise NotImplementedError


class PooledClassifier(Classifier):
    """Convolutions, the mean of each last feature map, one linear layer."""

    def __init__(self, backbone: Backbone, classes: int, image: ImageContract) -> None:
        super().__init__(image)
        self.features = nn.Sequential(*backbone.layers)
        self.dropout = nn.Dropout(backbone.dropout)
        self.head = nn.Linear(backbone.width, classes)
        self.stage_names = backbone.names

    def forward(self, images: Tensor) -> Tensor:
        """logits_BK, float32, for images_BCHW, uint8."""
        means_BC = self.features(self.normalised(images)).mean(dim=(2, 3))
        return cast(Tensor, self.head(self.dropout(means_BC)))


class WrappedClassifier(Classifier):
    """Somebody else's network, from normalised images to logits."""

    def __init__(self, net: nn.Module, image: ImageContract) -> None:
        super().__init__(image)
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """logits_BK, float32, for images_BCHW, uint8."""
        return cast(Tensor, self.net(self.normalised(images)))


@dataclass(frozen=True, slots=True)
class Network:
    """An architecture: its backbone for a number of channels, and which images it is for."""

    backbone: Callable[[int], Backbone]
    min_side: int = 1  # pixels

    @property
    def for_small_images(self) -> bool:
        """Whether it sees single pixels, so that whitening their patches makes sense."""
        return self.min_side < 64


MODELS: dict[str, Network] = {
    "tiny": Network(partial(plain_net, 8)),
    "small": Network(partial(plain_net, 32)),
    **{f"resnet{depth}": Network(partial(cifar_resnet, depth)) for depth in (20, 32, 44, 56, 110)},
    "wrn-16-4": Network(partial(wide_resnet, 2, 4)),
    "wrn-28-10": Network(partial(wide_resnet, 4, 10)),
    "wrn-32-4": Network(partial(wide_resnet, 5, 4)),
    "densenet-40-12": Network(partial(densenet, 40, 12), min_side=4),
    "resnet18": Network(
        partial(imagenet_resnet, BasicBlock, (2, 2, 2, 2), (64, 128, 256, 512)), min_side=64
    ),
    "resnet50": Network(
        partial(imagenet_resnet, Bottleneck, (3, 4, 6, 3), (256, 512, 1024, 2048)), min_side=64
    ),
    **{
        f"efficientnet-lite{number}": Network(partial(efficientnet_lite, number), min_side=64)
        for number in range(len(SCALES))
    },
}


def default_model(image: ImageContract) -> str:
    """`small` up to 16 pixels, `resnet20` above."""
    return "small" if max(image.height, image.width) <= 16 else "resnet20"


def build_model(
    name: str, classes: int, image: ImageContract, pretrained: str | None = None
) -> Classifier:
    """A network, freshly initialised unless `pretrained` says otherwise.

    Args:
        name: one of `MODELS`; one for small images with `+whiten` after it, see
            `set_whitening`; or `timm:` and the name of a network in timm.
        classes: number of classes.
        image: what the network takes.
        pretrained: `hub` for published weights, or the path of a file; `none` is the same as None.

    Raises:
        InvalidConfig: no network has this name or takes such images, or the weights are not
            there or do not fit.
    """
    if pretrained == FRESH:
        pretrained = None
    if name.startswith(timm_nets.PREFIX):
        return WrappedClassifier(timm_nets.build(name, classes, image, pretrained), image)
    model = PooledClassifier(_backbone(name, image), classes, image)
    # He et al. 2015 (arXiv:1502.01852), section 2.2, in the backward form that the published code
    # of He et al., Zagoruyko & Komodakis and Huang et al. has.
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if pretrained is not None:
        load_pretrained(model, name, pretrained)
    return model


def expected_normalisation(
    name: str, channels: int, pretrained: str = HUB
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The mean and deviation per channel, in units of full scale, that pretrained weights expect.

    Args:
        name: the network.
        channels: of the images. Where the weights are for another number, the average over theirs.
        pretrained: `hub`, or the path of a file; that of an earlier run's snapshot expects what
            the run's images were normalised with, any other one what the published weights do.

    Returns:
        (mean, std); None where neither says anything.

    Raises:
        InvalidConfig: timm is not installed or has no such network.
        InvalidManifest: the run around a file is damaged.
    """
    expected = None if pretrained == HUB else normalisation_of_file(Path(pretrained))
    if expected is None and (published := PUBLISHED.get(name)):
        expected = (published.mean,) * 3, (published.std,) * 3
    elif expected is None and name.startswith(timm_nets.PREFIX):
        expected = timm_nets.expected_normalisation(name)
    if expected is None or len(expected[0]) == channels:
        return expected
    mean, std = (sum(values) / len(values) for values in expected)
    return (mean,) * channels, (std,) * channels


def set_whitening(model: Classifier, images_NCHW: Tensor) -> None:
    """Compute a `+whiten` network's first layer from training images; leave others as they are.

    Args:
        model: the network, before its first step.
        images_NCHW: uint8, the training split; up to 5,000 of its images are used.
    """
    for module in model.modules():
        if isinstance(module, PatchWhitening):
            module.fit(images_NCHW, model.normalised)


def parameter_count(model: nn.Module) -> int:
    """How many numbers the optimizer changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _backbone(name: str, image: ImageContract) -> Backbone:
    base = name.removesuffix(WHITEN)
    if base not in MODELS:
        raise InvalidConfig(
            f"unknown model {name!r}; choose one of {', '.join(MODELS)}, "
            f"or {timm_nets.PREFIX}NAME for a network of timm"
        )
    network = MODELS[base]
    if min(image.height, image.width) < network.min_side:
        raise InvalidConfig(
            f"{base} is for images of {network.min_side} pixels and more, these are "
            f"{image.height} x {image.width}; choose a network for small images such as "
            f"{default_model(image)}, or a larger --image-size"
        )
    if base == name:
        return network.backbone(image.channels)
    if not network.for_small_images or min(image.height, image.width) < PatchWhitening.SIDE + 3:
        raise InvalidConfig(
            f"{name}: {WHITEN} is for the networks for small images, and images of "
            f"{PatchWhitening.SIDE + 3} pixels and more; choose {base}"
        )
    whitening = PatchWhitening(image.channels)
    backbone = network.backbone(whitening.out_channels)
    return Backbone([whitening, nn.ReLU(inplace=True), *backbone.layers], backbone.width)


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
