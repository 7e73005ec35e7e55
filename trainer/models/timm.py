"""Networks of timm (pip install 'snapensemble[timm]'), fresh or with pretrained weights.

Fine-tuning starts from weights that timm downloads, or from a file that was brought along.
"""

import difflib
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import nn

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.pixels import ImageContract
from snapensemble.trainer.config import HUB
from snapensemble.trainer.models.pretrained import first_line, read_weights

PREFIX = "timm:"


def build(name: str, classes: int, image: ImageContract, pretrained: str | None) -> nn.Module:
    """The network behind `timm:NAME`, from normalised images to logits.

    Fresh weights come from torch's random state. With images of one channel, pretrained weights of
    the first convolution are summed over their three (timm's own way).

    Raises:
        InvalidConfig: timm is not installed or has no such network, the images do not fit it, or
            the weights cannot be had or do not fit.
    """
    timm, name = _timm(), _known(name)
    settings: dict[str, Any] = {"in_chans": image.channels}
    if timm.get_pretrained_cfg(name).fixed_input_size:
        settings["img_size"] = (image.height, image.width)  # its position codes are made for it
    if pretrained is None:
        net = _created(name, image, num_classes=classes, **settings)
    elif pretrained == HUB:
        net = _downloaded(name, image, num_classes=classes, **settings)
    else:
        net = _from_file(name, classes, image, Path(pretrained), settings)
    _try(net, name, classes, image)
    return net


def expected_normalisation(
    name: str, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The mean and deviation per channel that the pretrained weights of `timm:NAME` were made for.

    For images of one channel it is the average over three, as the first convolution's weights are
    summed over them: exact where the three are the same, near it elsewhere.

    Returns:
        (mean, std) in units of full scale; None for a network that is not timm's.

    Raises:
        InvalidConfig: timm is not installed or has no such network.
    """
    if not name.startswith(PREFIX):
        return None
    cfg = _timm().get_pretrained_cfg(_known(name))
    mean, std = tuple(map(float, cfg.mean)), tuple(map(float, cfg.std))
    if channels == len(mean):
        return mean, std
    return (sum(mean) / len(mean),) * channels, (sum(std) / len(std),) * channels


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise InvalidConfig(
            f"networks of timm need the package timm ({error}); "
            "install it: pip install 'snapensemble[timm]'"
        ) from error
    except RuntimeError as error:  # torchvision, of another build than torch
        raise InvalidConfig(
            f"timm cannot be imported: {error}; install the torchvision that belongs to "
            f"torch {torch.__version__}"
        ) from error
    module: ModuleType = timm
    return module


def _known(name: str) -> str:
    """The name without its prefix, if timm has such a network."""
    timm, bare = _timm(), name.removeprefix(PREFIX)
    architecture, _, tag = bare.partition(".")
    if timm.is_model(architecture) and (not tag or bare in timm.list_pretrained(f"{bare}*")):
        return bare
    known = timm.list_models() + timm.list_pretrained()
    close = ", ".join(PREFIX + match for match in difflib.get_close_matches(bare, known, n=5))
    raise InvalidConfig(
        f"timm has no network {bare!r}; "
        + (f"close to it: {close}" if close else "timm.list_models() gives their names")
    )


def _created(name: str, image: ImageContract, **settings: Any) -> nn.Module:
    try:
        net: nn.Module = _timm().create_model(name, **settings)
        return net
    except (TypeError, ValueError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        raise InvalidConfig(
            f"{PREFIX}{name} cannot be built for images of {image.channels} x {image.height} x "
            f"{image.width}: {error}{_size_advice(name)}"
        ) from error


def _downloaded(name: str, image: ImageContract, **settings: Any) -> nn.Module:
    if not _timm().get_pretrained_cfg(name).has_weights:
        raise InvalidConfig(f"timm has no pretrained weights for {name}; train it without")
    _created(name, image, **settings)  # images that do not fit are no failed download
    try:
        net: nn.Module = _timm().create_model(name, pretrained=True, **settings)
    except Exception as error:  # the download's libraries raise their own types
        raise InvalidConfig(
            f"the weights of {name} cannot be downloaded: {first_line(error)}; without a network, "
            "give the path of their file: --pretrained FILE"
        ) from error
    return net


def _from_file(
    name: str, classes: int, image: ImageContract, file: Path, settings: dict[str, Any]
) -> nn.Module:
    """Load all weights with the file's own classes; then a fresh last layer where they differ."""
    weights = read_weights(file)
    if all(key.startswith("net.") for key in weights):  # a snapshot of a run with such a network
        weights = {key.removeprefix("net."): value for key, value in weights.items()}
    cfg = _timm().get_pretrained_cfg(name)
    rows = cfg.num_classes
    if isinstance(cfg.classifier, str) and f"{cfg.classifier}.weight" in weights:
        rows = len(weights[f"{cfg.classifier}.weight"]) - (cfg.label_offset or 0)
    _created(name, image, num_classes=classes, **settings)
    overlay = {"state_dict": weights, "num_classes": rows, "custom_load": False}
    try:
        net: Any = _timm().create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=rows, **settings
        )
    except Exception as error:  # timm's filters assume much about the names inside
        raise InvalidConfig(
            f"{file} does not hold weights of {name}: {first_line(error)}"
        ) from error
    if rows != classes:
        net.reset_classifier(classes)
    return cast(nn.Module, net)


def _try(net: nn.Module, name: str, classes: int, image: ImageContract) -> None:
    """Run one black image through the network: what does not fit is refused before training."""
    net.eval()
    try:
        with torch.no_grad():
            shape = tuple(net(torch.zeros(1, *image.shape)).shape)
    except Exception as error:  # a network may fail on a small image in any way
        raise InvalidConfig(
            f"{PREFIX}{name} does not take images of {image.height} x {image.width}: "
            f"{first_line(error)}{_size_advice(name)}"
        ) from error
    if shape != (1, classes):
        raise InvalidConfig(f"{PREFIX}{name} is no classifier: it gives shape {shape}")
    net.train()


def _size_advice(name: str) -> str:
    _, height, width = _timm().get_pretrained_cfg(name).input_size
    return f"; it was made for {height} x {width}: --image-size {height}"
