"""Every kind of network answers from ONNX Runtime as it does from torch."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from contracts.pixels import ImageContract
from export.convert import to_onnx
from export.verify import parity
from tests.torchvision_ops import import_timm
from trainer.models import build_model, set_whitening


def images(side: int) -> tuple[ImageContract, np.ndarray]:
    image = ImageContract(
        channels=3, height=side, width=side, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)
    )
    pixels = np.random.default_rng(0).integers(0, 256, (10, *image.shape), dtype=np.uint8)
    return image, pixels


def trained(name: str, image: ImageContract, pixels: np.ndarray) -> nn.Module:
    """A network whose batch-norm statistics are not those of a fresh one."""
    torch.manual_seed(0)
    model = build_model(name, 4, image).train()
    set_whitening(model, torch.from_numpy(pixels))
    with torch.no_grad():
        for _ in range(3):
            model(torch.from_numpy(pixels))
    return model.eval()


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("wrn-16-4", 16),
        ("densenet-40-12", 8),
        ("resnet18", 64),
        ("tiny+whiten", 16),
        ("timm:test_resnet", 32),
    ],
)
def test_a_network_answers_as_torch_does_at_every_batch_size(name: str, side: int) -> None:
    if name.startswith("timm:"):
        import_timm()
    image, pixels = images(side)
    model = trained(name, image, pixels)
    onnx_file = to_onnx(model, image)
    record = parity(model, onnx_file, pixels, what=name).record
    assert record.max_probability_difference < 1e-5
    kinds = {node.op_type for node in onnx.load_from_string(onnx_file).graph.node}
    assert "BatchNormalization" not in kinds


def test_whitening_is_a_plain_convolution_in_the_graph() -> None:
    image, pixels = images(16)
    graph = onnx.load_from_string(to_onnx(trained("tiny+whiten", image, pixels), image)).graph
    assert {node.op_type for node in graph.node} == {
        "Cast", "Sub", "Mul", "Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm",
    }  # fmt: skip
