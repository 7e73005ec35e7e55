"""Every kind of network answers from ONNX Runtime as it does from torch, and nearly so in int8."""

import numpy as np
import onnx
import pytest

from snapensemble.contracts.metrics import softmax
from snapensemble.export.int8.quantize import to_int8
from snapensemble.export.parity import parity, run_file
from tests.networks import exported, noise_NCHW, trained

NETWORKS = [
    pytest.param("wrn-16-4", 16, marks=pytest.mark.slow),
    pytest.param("densenet-40-12", 8, marks=pytest.mark.slow),
    pytest.param("resnet18", 64, marks=pytest.mark.slow),
    ("tiny+whiten", 16),
    ("timm:test_resnet", 32),
]


@pytest.mark.parametrize(("name", "side"), NETWORKS)
def test_a_network_answers_as_torch_does_at_every_batch_size(name: str, side: int) -> None:
    onnx_file = exported(name, side)
    record = parity(trained(name, side), [onnx_file], noise_NCHW(side)[:10], what=name).record
    assert record.max_probability_difference < 1e-5
    kinds = {node.op_type for node in onnx.load_from_string(onnx_file).graph.node}
    assert "BatchNormalization" not in kinds


@pytest.mark.parametrize(("name", "side"), [*NETWORKS, ("tiny", 16), ("resnet20", 16)])
def test_a_network_answers_in_int8_nearly_as_before(name: str, side: int) -> None:
    onnx_file, pixels = exported(name, side), noise_NCHW(side)
    before, after = (softmax(run_file(f, pixels)) for f in (onnx_file, to_int8(onnx_file, pixels)))
    assert 0 < np.abs(after - before).max() < 0.05


def test_whitening_is_a_plain_convolution_in_the_graph() -> None:
    graph = onnx.load_from_string(exported("tiny+whiten", 16)).graph
    assert {node.op_type for node in graph.node} == {
        "Cast", "Sub", "Mul", "Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm",
    }  # fmt: skip
