"""Changes to a graph that keep what it computes, so that ONNX Runtime computes it faster.

Shapes: C channels.
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from contracts.errors import SnapensembleError

HEIGHT_AND_WIDTH = [2, 3]


class ConversionFailed(SnapensembleError):
    """The exporter made a graph that does not keep the contract."""


def fold_batch_norms(graph: onnx.GraphProto) -> None:
    """Leave no batch normalisation.

    One that alone reads a convolution becomes part of it. Another one, behind a sum or a
    concatenation (pre-activation networks, DenseNet), becomes a convolution of single pixels of
    single channels, which ONNX Runtime computes in its blocked layout, with the ReLU behind it, and
    in int8; a product and a sum would be slower (docs/decisions/0011).

    Raises:
        ConversionFailed: one was exported for training, or its numbers are not constants.
    """
    arrays = constants(graph)
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    nodes: dict[str, onnx.NodeProto] = {}  # by their first output
    for node in graph.node:
        out = node.output[0]
        if node.op_type != "BatchNormalization":
            nodes[out] = node
            continue
        scale_C, shift_C = _scale_and_shift(node, arrays)
        source = nodes.get(node.input[0])
        if source is not None and readers[node.input[0]] == 1 and _is_plain_conv(source, arrays):
            del nodes[node.input[0]]
            weight = arrays[source.input[1]].astype(np.float64)
            scaled = weight * scale_C.reshape(-1, *[1] * (weight.ndim - 1))
            bias_C = bias_of(source, arrays) * scale_C + shift_C
            nodes[out] = convolution(graph, source, scaled, bias_C, out=out)
        elif (rank := _rank(graph, node.input[0])) > 2:
            pixel = helper.make_node("Conv", [node.input[0]], [out], node.name)
            pixel.attribute.extend(
                [
                    helper.make_attribute("group", len(scale_C)),
                    helper.make_attribute("kernel_shape", [1] * (rank - 2)),
                ]
            )
            weight = scale_C.reshape(-1, *[1] * (rank - 1))
            nodes[out] = convolution(graph, pixel, weight, shift_C, out=out)
        else:  # of plain features
            scale, shift = (
                add_constant(graph, f"{out}.{name}", values_C.astype(np.float32))
                for name, values_C in (("scale", scale_C), ("shift", shift_C))
            )
            product = f"{out}.product"
            nodes[product] = helper.make_node("Mul", [node.input[0], scale], [product], product)
            nodes[out] = helper.make_node("Add", [product, shift], [out], node.name)
    replace_nodes(graph, nodes.values())


def pool_globally(graph: onnx.GraphProto) -> None:
    """Write the mean over height and width as a pooling, of which ONNX Runtime has an int8 kind."""
    arrays = constants(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "ReduceMean" or not _is_over_pixels(graph, node, arrays):
            nodes.append(node)
            continue
        out = node.output[0]
        flat = attribute(node, "keepdims", 1) == 0
        pooled = f"{out}.pooled" if flat else out
        nodes.append(
            helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], f"{node.name}.pool")
        )
        if flat:
            nodes.append(helper.make_node("Flatten", [pooled], [out], node.name))
    replace_nodes(graph, nodes)


def convolution(
    graph: onnx.GraphProto,
    like: onnx.NodeProto,
    weight: NDArray[np.floating],
    bias_C: NDArray[np.floating],
    *,
    out: str,
) -> onnx.NodeProto:
    """A convolution like another one, with weights and an output of its own."""
    node = helper.make_node(
        "Conv",
        [
            like.input[0],
            add_constant(graph, f"{out}.weight", weight.astype(np.float32)),
            add_constant(graph, f"{out}.bias", bias_C.astype(np.float32)),
        ],
        [out],
        like.name,
    )
    node.attribute.extend(like.attribute)
    return node


def bias_of(conv: onnx.NodeProto, arrays: dict[str, NDArray[np.generic]]) -> NDArray[np.float64]:
    """What a convolution adds to each channel."""
    if len(conv.input) < 3:
        return np.zeros(len(arrays[conv.input[1]]))
    return arrays[conv.input[2]].astype(np.float64)


def constants(graph: onnx.GraphProto) -> dict[str, NDArray[np.generic]]:
    """The graph's weights and other constants by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def add_constant(graph: onnx.GraphProto, name: str, values: NDArray[np.generic]) -> str:
    """Put a constant into the graph; its name comes back."""
    graph.initializer.append(numpy_helper.from_array(values, name))
    return name


def attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    """A node's numerical attribute."""
    for each in node.attribute:
        if each.name == name:
            value: float = helper.get_attribute_value(each)
            return value
    return default


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Give the graph other nodes, and drop what none of them uses any more."""
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    made = {name for node in kept for name in node.output}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    shapes = [value for value in graph.value_info if value.name in made]
    del graph.value_info[:]
    graph.value_info.extend(shapes)


def _scale_and_shift(
    norm: onnx.NodeProto, arrays: dict[str, NDArray[np.generic]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a batch normalisation multiplies each channel with, and then adds."""
    if attribute(norm, "training_mode", 0) or any(name not in arrays for name in norm.input[1:]):
        raise ConversionFailed(
            f"{norm.name}: a batch normalisation whose statistics are not fixed; the network must "
            "be exported in evaluation mode"
        )
    gamma_C, beta_C, mean_C, variance_C = (
        arrays[name].astype(np.float64) for name in norm.input[1:]
    )
    scale_C = gamma_C / np.sqrt(variance_C + attribute(norm, "epsilon", 1e-5))
    return scale_C, beta_C - mean_C * scale_C


def _is_plain_conv(node: onnx.NodeProto, arrays: dict[str, NDArray[np.generic]]) -> bool:
    return node.op_type == "Conv" and all(name in arrays for name in node.input[1:])


def _is_over_pixels(
    graph: onnx.GraphProto, mean: onnx.NodeProto, arrays: dict[str, NDArray[np.generic]]
) -> bool:
    if len(mean.input) < 2 or mean.input[1] not in arrays or _rank(graph, mean.input[0]) != 4:
        return False
    return sorted(int(axis) % 4 for axis in arrays[mean.input[1]]) == HEIGHT_AND_WIDTH


def _rank(graph: onnx.GraphProto, name: str) -> int:
    """How many dimensions a tensor has; 0 if the graph does not say."""
    for value in (*graph.value_info, *graph.input):
        if value.name == name and value.type.tensor_type.HasField("shape"):
            return len(value.type.tensor_type.shape.dim)
    return 0
