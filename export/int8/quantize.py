"""Quantising a member's file: the same member computed in int8.

The quantisation is static and in QDQ form, the only one of ONNX Runtime that is fast for
convolutions on x86: activations are uint8, weights int8 with a scale per output channel.

Shapes: N images, C channels, H height, W width.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, shape_inference

from snapensemble.contracts.sessions import open_session
from snapensemble.export.acceptance import QuantizationRefused
from snapensemble.export.class_maps import expose_maps, hide_maps
from snapensemble.export.int8.rounding import round_weights
from snapensemble.export.onnx_graph import PIXELS, constants, convolve_pixels, replace_nodes

IMAGES_AT_A_TIME = 16
LINEAR = ("Gemm", "MatMul")
WITH_WEIGHTS = ("Conv", *LINEAR)
# The pools and Concat are here only so that what is between two convolutions stays in int8.
OPERATORS = (
    *WITH_WEIGHTS, "Add", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat",
)  # fmt: skip
# Seven bits: with eight, processors without VNNI add pairs of products in 16 bits, which overflow.
# The export cannot know which processor will serve, and seven bits cost next to nothing
# (docs/decisions/0011).
REDUCE_RANGE = True


Rounding = Callable[[onnx.ModelProto, NDArray[np.generic]], dict[str, NDArray[np.float32]]]


class Range(NamedTuple):
    """The smallest and the largest value that a tensor had."""

    smallest: np.float32
    largest: np.float32


def to_int8(
    onnx_file: bytes, images: NDArray[np.generic], *, rounding: Rounding = round_weights
) -> bytes:
    """Quantise a network; the same file and images give the same bytes.

    Args:
        onnx_file: made by `to_onnx`; it may take images or features.
        images: what its input takes, for some of the training images; ranges of activations and
            the rounding of weights are chosen by them.
        rounding: rounds weights in place and gives their scales; any others are rounded to the
            nearest.

    Returns:
        A file with the same input, output and metadata, but for `precision`.

    Raises:
        QuantizationRefused: nothing in it can be computed in int8.
    """
    given = onnx.load_from_string(onnx_file)
    model = onnx.load_from_string(onnx_file)
    hide_maps(model)
    on_pixels = convolve_pixels(model.graph)
    model = shape_inference.infer_shapes(model)
    ranges = activation_ranges(model, images)
    if on_pixels:
        ranges[PIXELS] = Range(np.float32(0), np.float32(255))  # a scale of 1: the pixels
    scales = rounding(model, images)
    quantised = _quantised(model, ranges, scales)
    if not _in_int8(quantised.graph):
        raise QuantizationRefused(
            "no convolution and no linear layer of this network can be computed in int8; "
            "export it with --quantize none"
        )
    if on_pixels:
        _quantise_no_pixels(quantised.graph)
    return _finished(quantised, given)


def activation_ranges(model: onnx.ModelProto, images: NDArray[np.generic]) -> dict[str, Range]:
    """The range of each float32 tensor, the input among them if it is one.

    Args:
        model: holds the types of all tensors, see `onnx.shape_inference`.
        images: what the input takes, like those that the network will see.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = [
        value.name
        for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    ]
    outputs = []
    for name in names:
        for kind in ("ReduceMin", "ReduceMax"):
            output = f"{name}.{kind}"
            watched.graph.node.append(helper.make_node(kind, [name], [output], output, keepdims=0))
            watched.graph.output.append(
                helper.make_tensor_value_info(output, TensorProto.FLOAT, [])
            )
            outputs.append(output)
    session, given = open_session(watched.SerializeToString()), model.graph.input[0].name
    found = np.array(
        [
            session.run(outputs, {given: images[start : start + IMAGES_AT_A_TIME]})
            for start in range(0, len(images), IMAGES_AT_A_TIME)
        ]
    )
    smallest, largest = found[:, ::2].min(axis=0), found[:, 1::2].max(axis=0)
    return {name: Range(smallest[row], largest[row]) for row, name in enumerate(names)}


def _quantised(
    model: onnx.ModelProto, ranges: dict[str, Range], scales: dict[str, NDArray[np.float32]]
) -> onnx.ModelProto:
    # Imported here because contracts.sessions must come first, and because it takes a second.
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    overrides = {
        name: [
            {"quant_type": QuantType.QInt8, "axis": 0, "scale": scale, "zero_point": np.int8(0)}
            for scale in scale_O
        ]
        for name, scale_O in scales.items()
    }
    add_infer_metadata(model)  # or the quantiser would infer the shapes again, through files
    with _quiet():
        quantiser = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=REDUCE_RANGE,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(
                CalibrationMethod.MinMax, {name: tuple(each) for name, each in ranges.items()}
            ),
            nodes_to_quantize=[],
            nodes_to_exclude=[*_last_layer(model.graph), *_clips_without_zero(model.graph)],
            op_types_to_quantize=list(OPERATORS),
            extra_options={"MatMulConstBOnly": True, "TensorQuantOverrides": overrides},
        )
        quantiser.quantize_model()
        quantiser.model.topological_sort()
    result: onnx.ModelProto = quantiser.model.model
    return result


def _last_layer(graph: onnx.GraphProto) -> list[str]:
    """The layer that makes the logits: no faster in int8, where logits would have 256 values."""
    return [
        node.name
        for node in graph.node
        if node.op_type in LINEAR and node.output[0] == graph.output[0].name
    ]


def _clips_without_zero(graph: onnx.GraphProto) -> list[str]:
    """Clips that the range of an int8 tensor cannot replace, as every such range has 0 in it."""
    arrays = constants(graph)

    def keeps_zero(node: onnx.NodeProto) -> bool:
        bounds = [*node.input[1:], "", ""][:2]
        low, high = (arrays.get(name, np.array(np.nan)) if name else 0 for name in bounds)
        return bool(low <= 0 <= high)

    return [node.name for node in graph.node if node.op_type == "Clip" and not keeps_zero(node)]


def _in_int8(graph: onnx.GraphProto) -> bool:
    """Whether some layer has weights in int8."""
    restored = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return any(node.input[1] in restored for node in graph.node if node.op_type in WITH_WEIGHTS)


def _quantise_no_pixels(graph: onnx.GraphProto) -> None:
    """Hand the pixels on as uint8, which they are before they become float32 and uint8 again."""
    makers = {name: node for node in graph.node for name in node.output}
    (quantise,) = (
        node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == PIXELS
    )
    arrays = constants(graph)
    assert arrays[quantise.input[1]] == 1 and arrays[quantise.input[2]] == 0
    cast = makers[PIXELS]
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == quantise.output[0]:
                node.input[index] = cast.input[0]
    replace_nodes(graph, [node for node in graph.node if node not in (quantise, cast)])


def _finished(quantised: onnx.ModelProto, given: onnx.ModelProto) -> bytes:
    """The quantised file, with what the given one says about itself."""
    metadata = {entry.key: entry.value for entry in given.metadata_props} | {"precision": "int8"}
    helper.set_model_props(quantised, dict(sorted(metadata.items())))
    quantised.producer_name = given.producer_name
    quantised.producer_version = given.producer_version
    quantised.graph.doc_string = given.graph.doc_string
    if len(given.graph.output) > 1:
        quantised = shape_inference.infer_shapes(quantised)
        expose_maps(quantised)
    for found, expected in (
        (quantised.graph.input, given.graph.input),
        (quantised.graph.output, given.graph.output),
    ):
        assert list(found) == list(expected)
    onnx.checker.check_model(quantised, full_check=True)
    return bytes(quantised.SerializeToString(deterministic=True))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser's advice off the terminal, and from setting up logging for everybody."""
    root = logging.getLogger()
    handler, level = logging.NullHandler(), root.level
    root.addHandler(handler)
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
