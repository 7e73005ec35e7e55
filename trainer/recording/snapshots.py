"""The weights at a cycle's end, in safetensors files inside the run directory.

Shapes: N validation images, K classes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn

from snapensemble.contracts.errors import InvalidManifest
from snapensemble.contracts.files import read_verified
from snapensemble.contracts.manifest import FileRef, ValFigures
from snapensemble.contracts.run import RunManifest, Snapshot, Weights, read_run
from snapensemble.trainer.models.registry import Classifier, build_model


@dataclass(frozen=True, slots=True)
class Kept:
    """Weights that a finished cycle leaves, not written yet."""

    weights: Weights
    data: bytes  # safetensors
    logits_NK: NDArray[np.float32]  # for the validation split
    val: ValFigures
    of_cycles: int

    @classmethod
    def of(
        cls,
        weights: Weights,
        network: nn.Module,
        logits_NK: NDArray[np.float32],
        val: ValFigures,
        of_cycles: int = 1,
    ) -> "Kept":
        """What is to be kept of a network; it may change afterwards."""
        return cls(weights, snapshot_bytes(network), logits_NK, val, of_cycles)


def snapshot_bytes(model: nn.Module) -> bytes:
    """The weights and buffers of a model in the safetensors format."""
    # channels_last weights are strided; the format stores rows one after the other.
    state = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    return safetensors.torch.save(state)


def load_model(run_dir: Path, run: RunManifest, snapshot: Snapshot) -> Classifier:
    """The network as it was when the snapshot was taken, in evaluation mode, on the CPU.

    Raises:
        InvalidManifest: a file is absent, has another hash, or does not fit the architecture.
        InvalidConfig: the run used an architecture that this version does not know.
    """
    model = build_model(run.training.model, len(run.classes), run.image)
    files: list[FileRef | Snapshot] = [snapshot] if run.trunk is None else [run.trunk, snapshot]
    weights: dict[str, Tensor] = {}
    try:
        for each in files:
            weights |= read_weights(run_dir, each)
        model.load_state_dict(weights)
    except (SafetensorError, RuntimeError, KeyError, ValueError) as error:  # KeyError: a type
        raise InvalidManifest(
            f"{run_dir / files[-1].file} does not fit {run.training.model}: {error}"
        ) from error
    return model.eval()


def load_trunk(run_dir: Path, model: nn.Module) -> None:
    """Put the trunk that a run has kept into a network, if there is one.

    Raises:
        InvalidManifest: it is absent or has another hash.
    """
    trunk = read_run(run_dir).trunk
    if trunk is not None:
        model.load_state_dict(read_weights(run_dir, trunk), strict=False)


def read_weights(run_dir: Path, kept: FileRef | Snapshot) -> dict[str, Tensor]:
    """The weights and buffers of a file by name, its hash checked."""
    data = read_verified(run_dir, kept.file, kept.sha256, kept.size)
    return safetensors.torch.load(data)
