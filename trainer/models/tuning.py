"""A pretrained network in two: the trunk that stays as it is, and the member that is trained.

The names that the parts have for their tensors are the network's, so that the tensors of both
together are those of the whole. A member's modules are the network's own.

Shapes: B images, C channels, H height, W width, K classes.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.trainer.models.registry import (
    PooledClassifier,
    TakesImages,
    WrappedClassifier,
)

ALL, HEAD = "all", "head"


class PooledTrunk(TakesImages):
    """The first layers; with all of them, the means of the last feature maps."""

    def __init__(self, model: PooledClassifier, layers: int) -> None:
        super().__init__(model.image)
        self.to(model.pixel_mean)  # its device and type
        self.features = model.features[:layers]
        self._pools = layers == len(model.features)

    def forward(self, images: Tensor) -> Tensor:
        """features_BCHW, or features_BC with all layers, for images_BCHW, uint8."""
        features: Tensor = self.features(self.normalised(images))
        return features.mean(dim=(2, 3)) if self._pools else features


class Member(nn.Module):
    """What comes after a trunk."""

    @property
    def last(self) -> nn.Linear:
        """The last layer."""
        raise NotImplementedError

    def before_last(self, features: Tensor) -> Tensor:
        """What the last layer gets, but for dropout, for features of the trunk: B rows."""
        raise NotImplementedError


class PooledMember(Member):
    """The other layers and the last one."""

    def __init__(self, model: PooledClassifier, layers: int) -> None:
        super().__init__()
        self.features = model.features[layers:]
        self._pools = layers < len(model.features)
        self.dropout = model.dropout
        self.head = model.head

    @property
    def last(self) -> nn.Linear:
        """The last layer."""
        return self.head

    def before_last(self, features: Tensor) -> Tensor:
        """The means of the last feature maps."""
        if not self._pools:
            return features
        maps_BCHW: Tensor = self.features(features)
        return maps_BCHW.mean(dim=(2, 3))

    def forward(self, features: Tensor) -> Tensor:
        """logits_BK, float32, for features of the trunk."""
        return cast(Tensor, self.head(self.dropout(self.before_last(features))))


class WrappedTrunk(TakesImages):
    """A copy of somebody else's network up to its last layer."""

    def __init__(self, model: WrappedClassifier) -> None:
        super().__init__(model.image)
        self.to(model.pixel_mean)  # its device and type
        net: Any = deepcopy(model.net)
        net.reset_classifier(0)
        self.net = cast(nn.Module, net)

    def forward(self, images: Tensor) -> Tensor:
        """features_BC for images_BCHW, uint8."""
        return cast(Tensor, self.net(self.normalised(images)))


class WrappedMember(Member):
    """Its last layer, under the name that it has there."""

    def __init__(self, model: WrappedClassifier) -> None:
        super().__init__()
        net: Any = model.net
        self._path = f"net.{net.default_cfg['classifier']}"
        first, *others = self._path.split(".")
        layer = model.get_submodule(self._path)
        for name in reversed(others):
            layer = nn.ModuleDict({name: layer})
        self.add_module(first, layer)

    @property
    def last(self) -> nn.Linear:
        """The last layer."""
        return cast(nn.Linear, self.get_submodule(self._path))

    def before_last(self, features: Tensor) -> Tensor:
        """The features themselves."""
        return features

    def forward(self, features: Tensor) -> Tensor:
        """logits_BK, float32, for features of the trunk."""
        return cast(Tensor, self.last(features))


def divided(model: nn.Module, tune: str) -> tuple[nn.Module, Member]:
    """The trunk, uint8 images to float32 features, and the member, features to logits.

    Args:
        model: the whole network.
        tune: where the member begins: the name of a stage, or `head` for the last layer alone.

    Raises:
        InvalidConfig: the network has no such stage, or cannot be divided.
    """
    if isinstance(model, PooledClassifier):
        stages = model.stage_names[1:]
        if tune != HEAD and tune not in stages:
            raise _unknown(tune, stages)
        layers = len(model.features) if tune == HEAD else model.stage_names.index(tune)
        return PooledTrunk(model, layers), PooledMember(model, layers)
    assert isinstance(model, WrappedClassifier)
    if tune != HEAD:
        raise _unknown(tune, ())
    if not _ends_with_its_classifier(model):
        raise InvalidConfig(
            f"--tune {HEAD}: the last layer of this network cannot be divided from what is before "
            f"it; use --tune {ALL}"
        )
    return WrappedTrunk(model), WrappedMember(model)


def _ends_with_its_classifier(model: WrappedClassifier) -> bool:
    """Whether a linear layer comes last, so that trunk and member give what the whole does.

    Not so where timm names several such layers, or something follows.
    """
    whole = deepcopy(model).eval()
    shape = whole.image.shape
    images_1CHW = (torch.arange(math.prod(shape)) % 251).to(torch.uint8).view(1, *shape)
    images_1CHW = images_1CHW.to(whole.pixel_mean.device)
    with torch.no_grad():
        logits_1K = whole(images_1CHW)
        try:
            member = WrappedMember(whole)
            found_1K = member(WrappedTrunk(whole)(images_1CHW))
        except Exception:  # somebody else's network may fail in any way
            return False
    linear = isinstance(member.last, nn.Linear) and found_1K.shape == logits_1K.shape
    return linear and torch.allclose(found_1K, logits_1K, atol=1e-4)


def _unknown(tune: str, stages: Sequence[str]) -> InvalidConfig:
    return InvalidConfig(
        f"--tune {tune}: this network can be tuned from {', '.join([*stages, HEAD])}, or {ALL}"
    )
