"""Networks as if they had been trained, and their ONNX files; each is made once for all tests."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from snapensemble.contracts.pixels import ImageContract
from snapensemble.contracts.sessions import session_options
from snapensemble.export.onnx_export import to_onnx
from snapensemble.trainer.models.registry import build_model, set_whitening
from tests.shared import made_once

METADATA = {"classes": '["a", "b", "c", "d"]', "precision": "fp32", "seed": "7"}


def image_of(side: int) -> ImageContract:
    """The contract of square colour images."""
    return ImageContract(
        channels=3, height=side, width=side, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)
    )


@cache
def noise_NCHW(side: int) -> np.ndarray:
    """Forty images of noise."""
    return np.random.default_rng(0).integers(0, 256, (40, 3, side, side), dtype=np.uint8)


@cache
def trained(name: str, side: int, seed: int = 0) -> nn.Module:
    """A network of four classes whose batch-norm statistics are not those of a fresh one."""
    torch.manual_seed(seed)
    pixels = torch.from_numpy(noise_NCHW(side)[:10])
    model = build_model(name, 4, image_of(side)).train()
    set_whitening(model, pixels)
    with torch.no_grad():
        for _ in range(3):
            model(pixels)
    return model.eval()


@cache
def exported(name: str, side: int, seed: int = 0) -> bytes:
    """The ONNX file of a `trained` network, with `METADATA`."""

    def make(file: Path) -> None:
        file.write_bytes(to_onnx(trained(name, side, seed), image_of(side), METADATA))

    return made_once(f"{name.replace(':', '-')}-{side}-{seed}.onnx", make).read_bytes()


def optimised_kinds(onnx_file: bytes, path: Path) -> list[str]:
    """The operators that ONNX Runtime really runs."""
    import onnxruntime  # not before contracts.sessions

    options = session_options()
    options.optimized_model_filepath = str(path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(onnx_file, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(path / "optimised.onnx").graph.node]
