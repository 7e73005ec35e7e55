"""Networks of timm (pip install 'snapensemble[timm]'), fresh or with pretrained weights.

Fine-tuning starts from weights that timm downloads, or from a file that was brought along.
"""

import difflib
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import nn

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.pixels import ImageContract
from snapensemble.trainer.models.pretrained import in_short, read_weights
from snapensemble.trainer.options.network import HUB

PREFIX = "timm:"


def build(name: str, classes: int, image: ImageContract, pretrained: str | None) -> nn.Module:
    """The network behind `timm:NAME`, from normalised images to logits.

    Fresh weights come from torch's random state. With images of one channel, pretrained weights of
    the first convolution are summed over their three (timm's own way).

    Raises:
        InvalidConfig: timm is not installed or has no such network, the images do not fit it, or
            the weights cannot be had or do not fit.
    """
    timm, name = imported_timm(), _known(name)
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


def expected_normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and deviation per channel, in units of full scale, of timm's published weights.

    Raises:
        InvalidConfig: timm is not installed or has no such network.
    """
    cfg = imported_timm().get_pretrained_cfg(_known(name))
    return tuple(map(float, cfg.mean)), tuple(map(float, cfg.std))


def imported_timm() -> ModuleType:
    """timm, also beside a torchvision whose compiled operators cannot be loaded.

    Raises:
        InvalidConfig: it is not installed, or cannot be imported.
    """
    try:
        make_torchvision_importable()  # which timm imports
        return import_module("timm")
    except ImportError as error:
        raise InvalidConfig(
            f"networks of timm need the package timm ({error}); "
            "install it: pip install 'snapensemble[timm]'"
        ) from error
    except RuntimeError as error:
        raise InvalidConfig(
            f"timm cannot be imported: {in_short(error)}; install the torchvision that was built "
            f"for torch {torch.__version__}"
        ) from error


def make_torchvision_importable() -> None:
    """See to it that torchvision imports, also one whose compiled operators cannot be loaded.

    Raises:
        ImportError, RuntimeError: it is not installed, or fails for another reason.
    """
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        _declare_operators()


def _declare_operators() -> None:
    """Name the two operators without which torchvision refuses to be imported.

    A torchvision that was built for another torch, such as one for GPUs beside one for the CPU,
    cannot load its compiled part. It goes on without, and says so where an operator is called; but
    it describes these two to torch, which does not know them then
    (https://github.com/pytorch/vision/issues/9085). Named, they still do nothing: torchvision
    refuses to call them, and no classifier does.
    """
    for operator in ("nms", "qnms"):
        torch.library.define(
            f"torchvision::{operator}",
            "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        )
    # What the failed import has left would be taken for whole.
    for module in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[module]


def _known(name: str) -> str:
    """The name without its prefix, if timm has such a network."""
    timm, bare = imported_timm(), name.removeprefix(PREFIX)
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
        net: nn.Module = imported_timm().create_model(name, **settings)
        return net
    except (TypeError, ValueError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        raise InvalidConfig(
            f"{PREFIX}{name} cannot be built for images of {image.channels} x {image.height} x "
            f"{image.width}: {error}{_size_advice(name)}"
        ) from error


def _downloaded(name: str, image: ImageContract, **settings: Any) -> nn.Module:
    if not imported_timm().get_pretrained_cfg(name).has_weights:
        raise InvalidConfig(f"timm has no pretrained weights for {name}; train it without")
    _created(name, image, **settings)  # images that do not fit are no failed download
    try:
        net: nn.Module = imported_timm().create_model(name, pretrained=True, **settings)
    except Exception as error:  # the download's libraries raise their own types
        raise InvalidConfig(
            f"the weights of {name} cannot be downloaded: {in_short(error)}; without a network, "
            "give the path of their file: --pretrained FILE"
        ) from error
    return net


def _from_file(
    name: str, classes: int, image: ImageContract, file: Path, settings: dict[str, Any]
) -> nn.Module:
    """Load all weights with the file's own classes; then a fresh last layer where they differ."""
    weights = read_weights(file, _created(name, image, num_classes=classes, **settings))
    if all(key.startswith("net.") for key in weights):  # a snapshot of a run with such a network
        weights = {key.removeprefix("net."): value for key, value in weights.items()}
    cfg = imported_timm().get_pretrained_cfg(name)
    rows = cfg.num_classes
    if isinstance(cfg.classifier, str) and f"{cfg.classifier}.weight" in weights:
        rows = len(weights[f"{cfg.classifier}.weight"]) - (cfg.label_offset or 0)
    overlay = {"state_dict": weights, "num_classes": rows, "custom_load": False}
    try:
        net: Any = imported_timm().create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=rows, **settings
        )
    except Exception as error:  # timm's filters assume much about the names inside
        raise InvalidConfig(f"{file} does not hold weights of {name}: {in_short(error)}") from error
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
            f"{in_short(error)}{_size_advice(name)}"
        ) from error
    if shape != (1, classes):
        raise InvalidConfig(f"{PREFIX}{name} is no classifier: it gives shape {shape}")
    net.train()


def _size_advice(name: str) -> str:
    _, height, width = imported_timm().get_pretrained_cfg(name).input_size
    return f"; it was made for {height} x {width}: --image-size {height}"
