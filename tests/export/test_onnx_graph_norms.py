"""Graphs without batch norms, and with pools for means, compute what they computed before."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from snapensemble.export.onnx_graph import ConversionFailed, fold_batch_norms, pool_globally

NORM = ("gamma", "beta", "mean", "variance")


def graph_of(
    *nodes: onnx.NodeProto, shape: tuple[int, ...] = (4, 5, 6), out: tuple[int, ...] = (4, 5, 6)
) -> onnx.ModelProto:
    """A model from `x` to `y` over constants of noise."""
    rng = np.random.default_rng(0)
    arrays = {
        **{name: rng.uniform(0.5, 2, 4) for name in NORM},
        "weight": rng.normal(size=(4, 4, 3, 3)),
        "bias": rng.normal(size=4),
    }
    tensors = [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()]
    tensors += [
        numpy_helper.from_array(np.array(axes), name)
        for name, axes in (("pixels", [2, 3]), ("negative", [-1, -2]), ("rows", [2]))
    ]
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *out])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def answer(model: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    x = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    outputs = ReferenceEvaluator(model).run(None, {"x": x})
    assert isinstance(outputs, list)
    return np.asarray(outputs[0])


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def norm(source: str, out: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("BatchNormalization", [source, *NORM], [out], out, **attributes)


def conv(*inputs: str, out: str) -> onnx.NodeProto:
    return helper.make_node("Conv", list(inputs), [out], out, pads=[1, 1, 1, 1])


@pytest.mark.parametrize("inputs", [("x", "weight"), ("x", "weight", "bias")])
def test_a_norm_becomes_part_of_the_convolution_that_it_alone_reads(inputs: tuple[str]) -> None:
    model = graph_of(conv(*inputs, out="c"), norm("c", "y", epsilon=0.1))
    before = answer(model)
    fold_batch_norms(model.graph)
    assert kinds(model) == ["Conv"]
    np.testing.assert_allclose(answer(model), before, rtol=1e-4, atol=1e-5)


def test_a_norm_becomes_a_convolution_if_somebody_else_reads_its_input() -> None:
    model = graph_of(
        conv("x", "weight", out="c"), norm("c", "n"), helper.make_node("Add", ["c", "n"], ["y"])
    )
    before = answer(model)
    fold_batch_norms(model.graph)
    assert kinds(model) == ["Conv", "Conv", "Add"]
    np.testing.assert_allclose(answer(model), before, rtol=1e-4, atol=1e-5)


def test_two_norms_of_one_sum_keep_their_own_numbers() -> None:
    model = graph_of(
        helper.make_node("Add", ["x", "x"], ["sum"]),
        norm("sum", "first"),
        helper.make_node(
            "BatchNormalization", ["sum", "beta", "gamma", "variance", "mean"], ["second"], "second"
        ),
        helper.make_node("Sub", ["first", "second"], ["y"]),
    )
    before = answer(model)
    fold_batch_norms(model.graph)
    assert kinds(model) == ["Add", "Conv", "Conv", "Sub"]
    np.testing.assert_allclose(answer(model), before, rtol=1e-4, atol=1e-5)


def test_a_norm_of_plain_features_becomes_a_product_and_a_sum() -> None:
    model = graph_of(norm("x", "y"), shape=(4,), out=(4,))
    before = answer(model)
    fold_batch_norms(model.graph)
    assert kinds(model) == ["Mul", "Add"]
    np.testing.assert_allclose(answer(model), before, rtol=1e-5, atol=1e-6)


def test_what_the_norms_leave_behind_is_dropped() -> None:
    model = graph_of(conv("x", "weight", out="c"), norm("c", "y"))
    fold_batch_norms(model.graph)
    assert [tensor.name for tensor in model.graph.initializer] == ["y.weight", "y.bias"]
    assert not model.graph.value_info


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("BatchNormalization", ["x", *NORM], ["y", "m", "v"], training_mode=1),
        helper.make_node("BatchNormalization", ["x", *NORM[:3], "x"], ["y"]),
    ],
)
def test_a_norm_that_would_still_learn_is_refused(node: onnx.NodeProto) -> None:
    with pytest.raises(ConversionFailed, match="in evaluation mode"):
        fold_batch_norms(graph_of(node).graph)


@pytest.mark.parametrize("axes", ["pixels", "negative"])
@pytest.mark.parametrize(
    ("keepdims", "out", "expected"),
    [(0, (4,), ["GlobalAveragePool", "Flatten"]), (1, (4, 1, 1), ["GlobalAveragePool"])],
)
def test_a_mean_over_the_pixels_becomes_a_pooling(
    axes: str, keepdims: int, out: tuple[int, ...], expected: list[str]
) -> None:
    model = graph_of(helper.make_node("ReduceMean", ["x", axes], ["y"], keepdims=keepdims), out=out)
    before = answer(model)
    pool_globally(model.graph)
    assert kinds(model) == expected
    np.testing.assert_allclose(answer(model), before, rtol=1e-5, atol=1e-6)


def test_another_mean_stays() -> None:
    model = graph_of(helper.make_node("ReduceMean", ["x", "rows"], ["y"]), out=(4, 1, 6))
    pool_globally(model.graph)
    assert kinds(model) == ["ReduceMean"]
