"""What int8 makes of networks such as MobileNets: ReLU6, few weights per output, a trunk."""

from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from snapensemble.contracts.sessions import open_session
from snapensemble.export.int8.quantize import to_int8
from snapensemble.export.onnx_export import to_onnx
from snapensemble.trainer.models.efficientnet_lite import MBConv, conv_bn
from snapensemble.trainer.models.layers import Backbone
from snapensemble.trainer.models.registry import PooledClassifier
from tests.networks import image_of, optimised_kinds

SIDE = 24
OPSET = [helper.make_opsetid("", 20)]


@cache
def blots_NCHW() -> np.ndarray:
    """Images that differ in large patches of colour, as photographs do, and noise less so."""
    rng = np.random.default_rng(0)
    blots = rng.integers(0, 200, (60, 3, 3, 3)).repeat(SIDE // 3, axis=2).repeat(SIDE // 3, axis=3)
    return np.asarray(blots + rng.integers(0, 56, blots.shape), np.uint8)


@cache
def mobile_member() -> bytes:
    """A small network of MBConv blocks: some channels are a thousand times larger before ReLU6."""
    torch.manual_seed(0)
    layers = [
        nn.Sequential(*conv_bn(3, 16, 3, 2)),
        MBConv(16, 16, expansion=6, stride=1, kernel=3),
        MBConv(16, 24, expansion=6, stride=2, kernel=5),
        nn.Sequential(*conv_bn(24, 64)),
    ]
    model = PooledClassifier(Backbone(layers, 64), 8, image_of(SIDE)).train()
    parts = [part for part in model.modules() if not list(part.children())]
    with torch.no_grad():
        for norm, after in pairwise(parts):
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = 1.0
                if isinstance(after, nn.ReLU6):
                    norm.weight[::8] *= 1000
                    norm.bias[::8] = 5000  # almost always beyond 6
        model(torch.from_numpy(blots_NCHW()))
    return to_onnx(model, image_of(SIDE))


def answers(onnx_file: bytes, given: np.ndarray) -> np.ndarray:
    session = open_session(onnx_file)
    first = session.get_outputs()[0].name
    (found,) = session.run([first], {session.get_inputs()[0].name: given})
    return np.asarray(found)


def relative_error(before: np.ndarray, after: np.ndarray) -> float:
    """The error in units of how much answers differ between images."""
    return float((after - before).std() / (before - before.mean(axis=0)).std())


def made_of(*nodes: onnx.NodeProto, **constants: np.ndarray) -> bytes:
    """A graph from `features` [n, 6, 8, 8] to `y`."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 6, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(each), name) for name, each in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=OPSET, ir_version=10)
    return bytes(onnx.shape_inference.infer_shapes(model).SerializeToString())


def as_float(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def weights_of(outputs: int, inputs: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(outputs, inputs, 1, 1)).astype(np.float32)


def features() -> np.ndarray:
    return np.random.default_rng(1).normal(0.5, 1, (40, 6, 8, 8)).astype(np.float32)


def test_relu6_and_paddings_that_differ_cost_no_step_in_float(tmp_path: Path) -> None:
    kinds = optimised_kinds(to_int8(mobile_member(), blots_NCHW()), tmp_path)
    assert kinds.count("QLinearConv") == 8 and kinds.count("QLinearAdd") == 1
    assert not {"Conv", "Clip", "Add", "QuantizeLinear", "FusedConv"} & set(kinds)


def test_channels_that_differ_a_thousandfold_before_relu6_keep_their_answers() -> None:
    pixels = blots_NCHW()
    before, after = (
        answers(file, pixels) for file in (mobile_member(), to_int8(mobile_member(), pixels))
    )
    assert relative_error(before, after) < 0.1  # 0.15 with the nearest weights, 3 without Clip
    assert np.abs((after - before).mean(axis=0)).max() < 0.005 * before.std()


@pytest.mark.parametrize(("low", "high"), [(0, 6), (-1, 1), (0.5, 6), (-6, -0.5)])
def test_a_clip_keeps_both_of_its_bounds(low: float, high: float) -> None:
    given = made_of(
        helper.make_node("Conv", ["features", "w"], ["c"], "conv"),
        helper.make_node("Clip", ["c", "low", "high"], ["d"], "clip"),
        helper.make_node("Conv", ["d", "v"], ["y"], "last"),
        w=weights_of(6, 6), v=weights_of(4, 6), low=as_float(low), high=as_float(high),
    )  # fmt: skip
    before, after = (answers(file, features()) for file in (given, to_int8(given, features())))
    assert relative_error(before, after) < 0.04


def test_a_clip_whose_bounds_are_computed_is_left_as_it_is() -> None:
    given = made_of(
        helper.make_node("Conv", ["features", "w"], ["c"], "conv"),
        helper.make_node("ReduceMean", ["features"], ["low"], "mean", keepdims=0),
        helper.make_node("Clip", ["c", "low"], ["d"], "clip"),
        helper.make_node("Conv", ["d", "v"], ["y"], "last"),
        w=weights_of(6, 6), v=weights_of(4, 6),
    )  # fmt: skip
    before, after = (answers(file, features()) for file in (given, to_int8(given, features())))
    assert relative_error(before, after) < 0.04


def test_a_graph_may_take_features_and_end_with_features() -> None:
    given = made_of(
        helper.make_node("Conv", ["features", "w"], ["c"], "conv"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "v"], ["p"], "project"),
        helper.make_node("Add", ["p", "features"], ["y"], "add"),
        w=weights_of(12, 6), v=weights_of(6, 12),
    )  # fmt: skip
    quantised = to_int8(given, features())
    graph = onnx.load_from_string(quantised).graph
    assert [value.name for value in (*graph.input, *graph.output)] == ["features", "y"]
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) >= 4
    before, after = (answers(file, features()) for file in (given, quantised))
    assert (after.dtype, after.shape) == (before.dtype, before.shape)
    assert relative_error(before, after) < 0.04
