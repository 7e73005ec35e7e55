"""Changes to a graph that keep what it computes, so that ONNX Runtime computes it faster.

And how much there is to compute.

Shapes: C channels.
"""

from collections import Counter
from collections.abc import Iterable
from math import prod
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

from snapensemble.contracts.errors import SnapensembleError

HEIGHT_AND_WIDTH = [2, 3]
PIXELS = "images.pixels"  # the tensor of the pixels as float32, before they are quantised
BRIGHTEST = 255


class ConversionFailed(SnapensembleError):
    """The exporter made a graph that does not keep the contract."""


class Stem(NamedTuple):
    """The first nodes of a `Classifier`'s graph: images -> Cast -> Sub -> Mul -> Conv."""

    cast: onnx.NodeProto
    sub: onnx.NodeProto
    mul: onnx.NodeProto
    conv: onnx.NodeProto


def fold_batch_norms(graph: onnx.GraphProto) -> None:
    """Replace every batch normalisation by nodes that run faster.

    A normalisation that alone reads a convolution becomes part of it. Any other one, behind a sum
    or a concatenation (pre-activation networks, DenseNet), becomes a convolution of single pixels
    of single channels, which ONNX Runtime computes in its blocked layout, with the ReLU behind it,
    and in int8; a product and a sum would be slower (docs/decisions/0011).

    Raises:
        ConversionFailed: a normalisation was exported for training, or its numbers are not
            constants.
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
        else:  # features without height and width
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


def subtract_from_output(graph: onnx.GraphProto, values_K: NDArray[np.float64]) -> None:
    """Subtract a constant from each column of the output, in the bias of a linear last layer.

    Behind any other last node comes a subtraction.
    """
    arrays, out = constants(graph), graph.output[0].name
    (last,) = (node for node in graph.node if node.output[0] == out)
    bias = arrays.get(last.input[2]) if len(last.input) > 2 else np.zeros(len(values_K))
    nodes = list(graph.node)
    if last.op_type == "Gemm" and attribute(last, "beta", 1) == 1 and bias is not None:
        added = (bias.astype(np.float64) - values_K).astype(np.float32)
        last.input[2:] = [add_constant(graph, f"{out}.bias", added)]
    else:
        last.output[0] = f"{out}.before"
        offsets = add_constant(graph, f"{out}.offsets", values_K.astype(np.float32))
        nodes.append(helper.make_node("Sub", [last.output[0], offsets], [out], f"{out}.subtract"))
    replace_nodes(graph, nodes)


def convolve_pixels(graph: onnx.GraphProto) -> bool:
    """Let the first convolution read the pixels as they are.

    (x - mean) * scale inside a convolution is x times other weights, less a constant, except at
    the border, where padding stands for pixels of the mean. So the images get one more channel,
    255 everywhere, whose weights subtract the mean: padding is 0 there too, and nothing changes.

    ONNX Runtime's int8 convolutions also want a multiple of four channels: colour images have four
    with this one, and other images get as many more as they need, with weights of 0.

    Returns:
        Whether the graph begins as `Classifier` does; any other graph is left as it is.
    """
    arrays = constants(graph)
    stem = _find_stem(graph, arrays)
    if stem is None:
        return False
    channels = arrays[stem.conv.input[1]].shape[1]
    more = 4 - channels % 4
    pads = add_constant(graph, f"{PIXELS}.more", np.array([0, 0, 0, 0, 0, more, 0, 0]))
    brightest = add_constant(graph, f"{PIXELS}.brightest", np.array(BRIGHTEST, np.uint8))
    padded, out = f"{PIXELS}.padded", stem.conv.output[0]
    weight = _weight_of_pixels(stem, arrays, more)
    conv = convolution(graph, stem.conv, weight, bias_of(stem.conv, arrays), out=out)
    conv.input[0] = PIXELS
    replaced = {node.output[0] for node in stem}
    replace_nodes(
        graph,
        [
            helper.make_node("Pad", ["images", pads, brightest], [padded], f"{PIXELS}.pad"),
            helper.make_node("Cast", [padded], [PIXELS], f"{PIXELS}.cast", to=TensorProto.FLOAT),
            conv,
            *(node for node in graph.node if node.output[0] not in replaced),
        ],
    )
    return True


def operations(onnx_file: bytes) -> int:
    """How many multiplications and additions a file takes for one image.

    Those of convolutions and matrix products, which are nearly all; a fused pair counts as two.
    """
    graph = shape_inference.infer_shapes(onnx.load_from_string(onnx_file), data_prop=True).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    shapes = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in values
    } | {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    pairs = 0
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        first, second = shapes[node.input[0]], shapes[node.input[1]]
        per_output = prod(second[1:]) if node.op_type == "Conv" else first[-1]
        pairs += prod(shapes[node.output[0]][1:]) * per_output
    return 2 * pairs


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


def _find_stem(graph: onnx.GraphProto, arrays: dict[str, NDArray[np.generic]]) -> Stem | None:
    """The first nodes, if they are a `Classifier`'s and no other node reads what they make."""
    steps: list[onnx.NodeProto] = []
    name = "images"
    for kind in ("Cast", "Sub", "Mul", "Conv"):
        readers = [node for node in graph.node if name in node.input]
        if len(readers) != 1 or readers[0].op_type != kind or readers[0].input[0] != name:
            return None
        if any(constant not in arrays for constant in readers[0].input[1:]):
            return None
        steps.append(readers[0])
        name = readers[0].output[0]
    stem = Stem(*steps)
    ungrouped = attribute(stem.conv, "group", 1) == 1
    channels = arrays[stem.conv.input[1]].shape[1] if ungrouped else 0
    per_channel = (1, channels, 1, 1)
    fits = all(arrays[node.input[1]].shape == per_channel for node in (stem.sub, stem.mul))
    return stem if ungrouped and fits else None


def _weight_of_pixels(
    stem: Stem, arrays: dict[str, NDArray[np.generic]], more: int
) -> NDArray[np.float64]:
    """The convolution's weights for the pixels, then for `more` channels that are 255."""
    weight = arrays[stem.conv.input[1]].astype(np.float64)
    mean, scale = (arrays[node.input[1]].astype(np.float64) for node in (stem.sub, stem.mul))
    of_pixels = weight * scale
    of_mean = -(of_pixels * mean).sum(axis=1, keepdims=True) / BRIGHTEST
    nothing = np.zeros((len(weight), more - 1, *weight.shape[2:]))
    return np.concatenate([of_pixels, of_mean, nothing], axis=1)
