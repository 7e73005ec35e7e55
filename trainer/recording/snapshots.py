"""The weights at a cycle's end, in a safetensors file inside the run directory."""

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from snapensemble.contracts.errors import InvalidManifest
from snapensemble.contracts.files import read_verified
from snapensemble.contracts.run import RunManifest, Snapshot
from snapensemble.trainer.models.registry import Classifier, build_model


def snapshot_bytes(model: nn.Module) -> bytes:
    """The weights and buffers of a model in the safetensors format."""
    # channels_last weights are strided; the format stores rows one after the other.
    state = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    return safetensors.torch.save(state)


def load_model(run_dir: Path, run: RunManifest, snapshot: Snapshot) -> Classifier:
    """The network as it was when the snapshot was taken, in evaluation mode, on the CPU.

    Raises:
        InvalidManifest: the file is absent, has another hash, or does not fit the architecture.
        InvalidConfig: the run used an architecture that this version does not know.
    """
    data = read_verified(run_dir, snapshot.file, snapshot.sha256, snapshot.size)
    model = build_model(run.training.model, len(run.classes), run.image)
    try:
        model.load_state_dict(safetensors.torch.load(data))
    except (SafetensorError, RuntimeError, KeyError, ValueError) as error:  # KeyError: a type
        raise InvalidManifest(
            f"{run_dir / snapshot.file} does not fit {run.training.model}: {error}"
        ) from error
    return model.eval()
