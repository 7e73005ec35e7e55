"""A pretrained network in two: the trunk that stays as it is, and the member that is trained.

The parts share the network's modules and its names for them, so that the tensors of both together
are those of the whole network.

Shapes: B images, C channels, H height, W width, K classes.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, cast

from torch import Tensor, nn

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.trainer.models.registry import PooledClassifier, WrappedClassifier

ALL, HEAD = "all", "head"


class PooledTrunk(nn.Module):
    """The first layers; with all of them, the means of the last feature maps."""

    def __init__(self, model: PooledClassifier, layers: int) -> None:
        super().__init__()
        self._normalised: Callable[[Tensor], Tensor] = model.normalised
        self.features = model.features[:layers]
        self._pools = layers == len(model.features)

    def forward(self, images: Tensor) -> Tensor:
        """features_BCHW, or features_BC with all layers, for images_BCHW, uint8."""
        x: Tensor = self.features(self._normalised(images))
        return x.mean(dim=(2, 3)) if self._pools else x


class PooledMember(nn.Module):
    """The other layers and the last one."""

    def __init__(self, model: PooledClassifier, layers: int) -> None:
        super().__init__()
        self.features = model.features[layers:]
        self._pools = layers < len(model.features)
        self.dropout, self.head = model.dropout, model.head

    def forward(self, features: Tensor) -> Tensor:
        """logits_BK, float32, for features of the trunk."""
        if self._pools:
            features = self.features(features).mean(dim=(2, 3))
        return cast(Tensor, self.head(self.dropout(features)))


class WrappedTrunk(nn.Module):
    """Somebody else's network up to its last layer."""

    def __init__(self, model: WrappedClassifier) -> None:
        super().__init__()
        self._normalised: Callable[[Tensor], Tensor] = model.normalised
        self.net: Any = deepcopy(model.net)
        self.net.reset_classifier(0)

    def forward(self, images: Tensor) -> Tensor:
        """features_BC for images_BCHW, uint8."""
        return cast(Tensor, self.net(self._normalised(images)))


class WrappedMember(nn.Module):
    """Its last layer, under the name that it has there."""

    def __init__(self, model: WrappedClassifier) -> None:
        super().__init__()
        net: Any = model.net
        path = f"net.{net.default_cfg['classifier']}"
        self._path = path
        inner: nn.Module = net.get_classifier()
        *outer, last = path.split(".")
        for name in reversed([*outer[1:], last]):
            inner = nn.ModuleDict({name: inner})
        self.add_module(outer[0], inner)

    def forward(self, features: Tensor) -> Tensor:
        """logits_BK, float32, for features of the trunk."""
        return cast(Tensor, self.get_submodule(self._path)(features))


def divided(model: nn.Module, tune: str) -> tuple[nn.Module, nn.Module]:
    """The trunk, uint8 images to float32 features, and the member, features to logits.

    Args:
        model: the whole network.
        tune: where the member begins: the name of a stage, or `head` for the last layer alone.

    Raises:
        InvalidConfig: the network has no such stage.
    """
    if isinstance(model, PooledClassifier):
        if tune == HEAD:
            layers = len(model.features)
        elif tune in model.stage_names[1:]:
            layers = model.stage_names.index(tune)
        else:
            raise _unknown(tune, model.stage_names[1:])
        return PooledTrunk(model, layers), PooledMember(model, layers)
    if isinstance(model, WrappedClassifier) and tune == HEAD:
        return WrappedTrunk(model), WrappedMember(model)
    raise _unknown(tune, ())


def _unknown(tune: str, stages: Sequence[str]) -> InvalidConfig:
    return InvalidConfig(
        f"--tune {tune}: this network can be tuned from {', '.join([*stages, HEAD])}, or {ALL}"
    )
