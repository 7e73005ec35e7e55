"""The normalisation of the pixels as a part of the first convolution, for int8."""

from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.rewrite import (
    add_constant,
    attribute,
    bias_of,
    constants,
    convolution,
    replace_nodes,
)

PIXELS = "images.pixels"  # as float32, before they are quantised
BRIGHTEST = 255


class Stem(NamedTuple):
    """images -> Cast -> Sub -> Mul -> Conv."""

    cast: onnx.NodeProto
    sub: onnx.NodeProto
    mul: onnx.NodeProto
    conv: onnx.NodeProto


def convolve_pixels(graph: onnx.GraphProto) -> bool:
    """Let the first convolution read the pixels as they are.

    (x - mean) * scale inside a convolution is x times other weights, less a constant, except at
    the border, where padding stands for pixels of the mean. So the images get one more channel,
    255 everywhere, whose weights subtract the mean: padding is 0 there too, and nothing changes.

    Four channels instead of three also are what ONNX Runtime's int8 convolutions want; others get
    as many as it takes to a multiple of four, with weights of 0.

    Returns:
        Whether the graph begins as `Classifier` does. Another one is left as it is.
    """
    arrays = constants(graph)
    stem = _find(graph, arrays)
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


def _find(graph: onnx.GraphProto, arrays: dict[str, NDArray[np.generic]]) -> Stem | None:
    """The first steps, if they are a `Classifier`'s and nobody else reads what they make."""
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
