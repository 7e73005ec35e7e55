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
from snapensemble.trainer.models.registry import Classifier, PooledClassifier, WrappedClassifier

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


class WrappedTrunk(nn.Module):
    """Somebody else's network up to its last layer."""

    def __init__(self, model: WrappedClassifier) -> None:
        super().__init__()
        self._normalised: Callable[[Tensor], Tensor] = model.normalised
        net: Any = deepcopy(model.net)
        net.reset_classifier(0)
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """features_BC for images_BCHW, uint8."""
        return cast(Tensor, self.net(self._normalised(images)))


class WrappedMember(Member):
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

    @property
    def last(self) -> nn.Linear:
        """The last layer."""
        layer = self.get_submodule(self._path)
        if not isinstance(layer, nn.Linear):
            raise InvalidConfig(
                f"the last layer of this network is a {type(layer).__name__}, not a linear one; "
                "it cannot be fitted on features"
            )
        return layer

    def before_last(self, features: Tensor) -> Tensor:
        """The features themselves."""
        return features

    def forward(self, features: Tensor) -> Tensor:
        """logits_BK, float32, for features of the trunk."""
        return cast(Tensor, self.last(features))


def divided(model: Classifier, tune: str) -> tuple[nn.Module, Member]:
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
