"""What class activation maps need of a graph: its last feature maps and its last layer's weights.

In a network that ends in a mean over height and width and a linear layer, that layer applied to
each position of the feature maps says how much each position speaks for a class (Zhou et al. 2016,
arXiv:1512.04150, section 2); the mean over positions is the logit.

Shapes: B batch, C channels, H height and W width of the feature maps, K classes.
"""

from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from snapensemble.contracts.bundle import CLASS_BIAS, CLASS_WEIGHTS, MAPS
from snapensemble.export.onnx_graph import add_constant, attribute, constants

# A mean per channel passes through these as it is, but for rounding where it is kept in int8.
_KEEP_MEANS = (
    "Flatten", "Reshape", "Squeeze", "Identity", "Dropout", "QuantizeLinear", "DequantizeLinear",
)  # fmt: skip


class _Last(NamedTuple):
    """The last layer: what it reads, and W and b of its logits W x + b."""

    reads: str
    weights_KC: str
    bias_K: str


def expose_maps(model: onnx.ModelProto) -> None:
    """Add as outputs what class activation maps need, of what a member or a trunk has.

    After `logits` or `features` come `maps` float32 [batch, C, H, W], if a mean over height and
    width of them is what the last layer reads, or what a trunk gives; and of a last layer
    `class_weights` [K, C] and `class_bias` [K], constants, so that for any features of a trunk, or
    for each position of `maps`, the logits are `class_weights` times them plus `class_bias`. The
    nodes that make the first output stay as they are; a graph that ends in any other way gets no
    output more.

    Args:
        model: with the shapes of all tensors, see `onnx.shape_inference`.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    is_trunk = graph.output[0].name == "features"
    last = None if is_trunk else _last_layer(graph, makers)
    if last is None and not is_trunk:
        return
    source = _source_of_means(graph, makers, graph.output[0].name if last is None else last.reads)
    if source is None:
        return
    outputs = []
    if source != graph.input[0].name:
        shape = _shape(graph, source)
        _rename(graph, source, MAPS)
        outputs.append(
            helper.make_tensor_value_info(MAPS, TensorProto.FLOAT, ["batch", *shape[1:]])
        )
    if last is not None:
        for old, new in ((last.weights_KC, CLASS_WEIGHTS), (last.bias_K, CLASS_BIAS)):
            _rename(graph, old, new)
            shape = list(constants(graph)[new].shape)
            outputs.append(helper.make_tensor_value_info(new, TensorProto.FLOAT, shape))
    graph.output.extend(outputs)


def hide_maps(model: onnx.ModelProto) -> None:
    """Leave nothing but the first output."""
    del model.graph.output[1:]


def _last_layer(graph: onnx.GraphProto, makers: dict[str, onnx.NodeProto]) -> _Last | None:
    """The layer that makes the logits, if it is linear; its weights become constants [K, C]."""
    arrays = constants(graph)
    node = makers.get(graph.output[0].name)
    bias = None
    if node is not None and node.op_type == "Add":
        sides = [name for name in node.input if name in arrays]
        others = [name for name in node.input if name not in arrays]
        if len(sides) != 1 or arrays[sides[0]].ndim > 1:
            return None
        bias, node = sides[0], makers.get(others[0])
    if node is None or len(node.input) < 2 or node.input[1] not in arrays:
        return None
    weights = node.input[1]
    if node.op_type == "Gemm":
        plain = attribute(node, "alpha", 1) == attribute(node, "beta", 1) == 1
        if not plain or attribute(node, "transA", 0) or bias is not None:
            return None
        bias = node.input[2] if len(node.input) > 2 else None
        if bias is not None and (bias not in arrays or arrays[bias].ndim != 1):
            return None
        transposed = attribute(node, "transB", 0) == 1
    elif node.op_type == "MatMul" and arrays[weights].ndim == 2:
        transposed = False
    else:
        return None
    if not transposed:
        weights = add_constant(graph, f"{weights}.transposed", arrays[weights].T.copy())
    classes = constants(graph)[weights].shape[0]
    if bias is None or arrays[bias].shape != (classes,):
        values_K = np.zeros(classes) + (0 if bias is None else arrays[bias].astype(np.float64))
        bias = add_constant(graph, f"{weights}.bias", values_K.astype(np.float32))
    return _Last(node.input[0], weights, bias)


def _source_of_means(
    graph: onnx.GraphProto, makers: dict[str, onnx.NodeProto], name: str
) -> str | None:
    """The feature maps whose mean per channel a tensor is, or the input if that has the means."""
    while (node := makers.get(name)) is not None and node.op_type in _KEEP_MEANS:
        name = node.input[0]
    if node is None:
        is_means = name == graph.input[0].name and len(_shape(graph, name)) == 2
        return name if is_means else None
    maps = node.input[0]
    shape = _shape(graph, maps)
    if len(shape) != 4 or not all(shape[1:]):
        return None
    whole = node.op_type == "AveragePool" and _is_over_all(node, shape[2:])
    return maps if whole or node.op_type == "GlobalAveragePool" else None


def _is_over_all(pool: onnx.NodeProto, sides: list[int]) -> bool:
    """Whether the window of a pooling is the whole of its input."""
    settings = {each.name: helper.get_attribute_value(each) for each in pool.attribute}
    return list(settings["kernel_shape"]) == sides and not any(settings.get("pads", []))


def _shape(graph: onnx.GraphProto, name: str) -> list[int]:
    """A tensor's shape, 0 where it is not fixed; empty if the graph does not say."""
    for value in (*graph.value_info, *graph.input, *graph.output):
        if value.name == name:
            return [side.dim_value for side in value.type.tensor_type.shape.dim]
    return []


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Give a tensor another name everywhere; one that has it already steps aside."""
    if old == new:
        return
    names = {old: new, new: f"{new}.before"}
    for node in graph.node:
        for names_of in (node.input, node.output):
            for place, name in enumerate(names_of):
                names_of[place] = names.get(name, name)
    for each in (*graph.initializer, *graph.value_info):
        each.name = names.get(each.name, each.name)
