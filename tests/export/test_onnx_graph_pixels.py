"""The first convolution on raw pixels computes what it computes on normalised ones."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from snapensemble.export.onnx_graph import convolve_pixels


def network(
    channels: int = 3, *, bias: bool = True, kinds: str = "Cast Sub Mul Conv", **attributes: Any
) -> onnx.ModelProto:
    """uint8 images, normalised as `trainer.models.registry.Classifier` does, and a convolution."""
    rng = np.random.default_rng(0)
    per_channel = (1, channels, 1, 1)
    arrays = {
        "mean": rng.uniform(50, 200, per_channel),
        "scale": rng.uniform(0.01, 0.03, per_channel),
        "weight": rng.normal(size=(5, channels // attributes.get("group", 1), 3, 3)),
        "bias": rng.normal(size=5),
    }
    constants = {"Sub": ["mean"], "Mul": ["scale"], "Conv": ["weight", "bias"][: 1 + bias]}
    settings: dict[str, dict[str, Any]] = {"Cast": {"to": TensorProto.FLOAT}, "Conv": attributes}
    nodes, name = [], "images"
    for kind in kinds.split():
        extra = settings.get(kind, {})
        out = "y" if kind == "Conv" else kind
        nodes.append(helper.make_node(kind, [name, *constants.get(kind, [])], [out], kind, **extra))
        name = out
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", channels, 6, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5, None, None])],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def answer(model: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    images = np.random.default_rng(1).integers(0, 256, (3, channels, 6, 7), dtype=np.uint8)
    images[0], images[1] = 0, 255
    outputs = ReferenceEvaluator(model).run(None, {"images": images})
    assert isinstance(outputs, list)
    return np.asarray(outputs[0])


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 1, 1, 1]},
        {"pads": [0, 1, 2, 0], "strides": [2, 1]},
        {"auto_pad": "SAME_UPPER"},
        {"bias": False},
    ],
)
def test_nothing_changes_not_even_at_the_border(channels: int, attributes: dict[str, Any]) -> None:
    model = network(channels, **attributes)
    before = answer(model)
    assert convolve_pixels(model.graph)
    assert [node.op_type for node in model.graph.node] == ["Pad", "Cast", "Conv"]
    np.testing.assert_allclose(answer(model), before, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("channels", "convolved"), [(1, 4), (3, 4), (4, 8)])
def test_the_convolution_takes_a_multiple_of_four_channels(channels: int, convolved: int) -> None:
    model = network(channels)
    convolve_pixels(model.graph)
    weight = next(t for t in model.graph.initializer if t.name == "y.weight")
    assert weight.dims[1] == convolved


@pytest.mark.parametrize(
    "model",
    [network(kinds="Cast Mul Sub Conv"), network(kinds="Cast Conv"), network(5, group=5)],
)
def test_a_graph_that_begins_otherwise_is_left_as_it_is(model: onnx.ModelProto) -> None:
    before = model.SerializeToString()
    assert not convolve_pixels(model.graph)
    assert model.SerializeToString() == before


def test_a_graph_whose_normalised_images_have_another_reader_is_left_as_it_is() -> None:
    model = network()
    model.graph.node.append(helper.make_node("Relu", ["Mul"], ["other"]))
    assert not convolve_pixels(model.graph)
