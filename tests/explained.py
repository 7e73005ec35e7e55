"""Members that end in a mean over positions and a linear layer, and the maps that explain them.

What they must answer is computed here in float64, without ONNX Runtime and without Pillow.

Shapes: C channels, h w of feature maps, H W of images, K classes.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, load_from_string, numpy_helper
from PIL import Image

from snapensemble.contracts.bundle import CLASS_BIAS, CLASS_DIRECTIONS, CLASS_WEIGHTS, MAPS
from tests.factories import CLASSES, CONTRACT, onnx_file

CHANNELS, h, w = 4, 5, 4
KERNEL = np.random.default_rng(99).normal(size=(CHANNELS, CONTRACT.channels, 2, 2)) / 255
_CONV = (
    helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
    helper.make_node("Conv", ["float", "kernel"], ["mapped"]),
    helper.make_node("Relu", ["mapped"], ["positive"]),
)
_GEMM = helper.make_node("Gemm", ["means", "W", "b"], ["logits"], transB=1)


def last_layer(seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """weights_KC and bias_K of a member."""
    rng = np.random.default_rng(seed)
    weights_KC = rng.normal(size=(len(CLASSES), CHANNELS)) * 3
    return weights_KC.astype(np.float32), rng.normal(size=len(CLASSES)).astype(np.float32)


def explained_member(seed: int, **changes: Any) -> bytes:
    """A whole network that gives maps; for `changes` see `_file`."""
    nodes = [*_CONV, *_means("means"), _GEMM]
    return _file(nodes, ("images", "logits"), (MAPS, CLASS_WEIGHTS, CLASS_BIAS), seed, **changes)


def explained_trunk(**changes: Any) -> bytes:
    """A trunk whose features are the means of the maps that it gives."""
    return _file([*_CONV, *_means("features")], ("images", "features"), (MAPS,), 0, **changes)


def member_of_means(seed: int, **changes: Any) -> bytes:
    """A member behind `explained_trunk`: its last layer alone."""
    gemm = helper.make_node("Gemm", ["features", *_GEMM.input[1:]], ["logits"], transB=1)
    more = (CLASS_WEIGHTS, CLASS_BIAS)
    return _file([gemm], ("features", "logits"), more, seed, **changes)


def feature_maps_Chw(image_CHW: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What all members give as maps."""
    windows = sliding_window_view(image_CHW.astype(np.float64), (2, 2), axis=(1, 2))
    maps_Chw: NDArray[np.float64] = np.maximum(np.einsum("chwij,ocij->ohw", windows, KERNEL), 0)
    return maps_Chw


def evidence_Khw(seed: int, image_CHW: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What a member's last layer says of each position."""
    weights_KC, bias_K = last_layer(seed)
    maps_Chw = feature_maps_Chw(image_CHW)
    evidence: NDArray[np.float64] = np.einsum("kc,chw->khw", weights_KC, maps_Chw)
    return evidence + bias_K[:, None, None]


def with_directions(data: bytes, directions_KC: NDArray[np.float32]) -> bytes:
    """The same member, which knows the directions of all classes."""
    model = load_from_string(data)
    model.graph.initializer.append(numpy_helper.from_array(directions_KC, CLASS_DIRECTIONS))
    shape = list(directions_KC.shape)
    model.graph.output.append(
        helper.make_tensor_value_info(CLASS_DIRECTIONS, TensorProto.FLOAT, shape)
    )
    return bytes(model.SerializeToString())


def enlarged(evidence_hw: NDArray[np.float64]) -> NDArray[np.float64]:
    """evidence_HW by bilinear interpolation between the middles of positions."""
    _, height, width = CONTRACT.shape
    rows = (np.arange(height) + 0.5) * h / height - 0.5
    columns = (np.arange(width) + 0.5) * w / width - 0.5
    tall = np.stack([np.interp(rows, np.arange(h), column) for column in evidence_hw.T], axis=1)
    return np.stack([np.interp(columns, np.arange(w), row) for row in tall])


def shown(explanation: dict[str, Any]) -> NDArray[np.float64]:
    """evidence_HW as a client reads it from an answer."""
    picture = Image.open(io.BytesIO(base64.b64decode(explanation["png"], validate=True)))
    assert (picture.format, picture.mode) == ("PNG", "L")
    grey_HW = np.asarray(picture).astype(np.float64)
    low, high = explanation["low"], explanation["high"]
    assert low == high or (grey_HW.min(), grey_HW.max()) == (0, 255)
    shown_HW: NDArray[np.float64] = low + (high - low) * grey_HW / 255
    return shown_HW


def without_maps(data: bytes) -> bytes:
    """The same file as exports of earlier versions had it."""
    model: ModelProto = load_from_string(data)
    del model.graph.output[1:]
    return bytes(model.SerializeToString())


def _means(name: str) -> list[Any]:
    return [
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], [name]),
    ]


def _file(
    nodes: Sequence[Any],
    takes_and_gives: tuple[str, str],
    more: Sequence[str],
    seed: int,
    *,
    maps: str = "positive",
    weights: Sequence[int] = (len(CLASSES), CHANNELS),
    bias: Sequence[int] = (len(CLASSES),),
    outputs: Sequence[str] | None = None,
) -> bytes:
    """An ONNX file with further outputs, of which some may be wrong.

    Args:
        nodes: of its graph.
        takes_and_gives: the names of its input and of its first output.
        more: the names of the others.
        seed: of its last layer.
        maps: the tensor that it gives as maps.
        weights: the shape of the weights that it gives, which its nodes do not use.
        bias: the shape of the bias that it gives.
        outputs: what it gives instead of `more`.
    """
    takes, gives = takes_and_gives
    weights_KC, bias_K = last_layer(seed)
    tensors = {"kernel": KERNEL.astype(np.float32), "W": weights_KC, "b": bias_K}
    tensors[CLASS_WEIGHTS] = np.resize(weights_KC, weights)
    tensors[CLASS_BIAS] = np.resize(bias_K, bias)
    outputs = more if outputs is None else outputs
    if MAPS in outputs:
        nodes = [*nodes, helper.make_node("Identity", [maps], [MAPS])]
    used = {name for node in nodes for name in node.input} | set(outputs)
    shapes: dict[str, Sequence[int | str]] = {
        "images": ["batch", *CONTRACT.shape],
        "features": ["batch", CHANNELS],
        "logits": ["batch", len(CLASSES)],
        CLASS_WEIGHTS: weights,
        CLASS_BIAS: bias,
    }
    values = {
        name: helper.make_tensor_value_info(
            name, TensorProto.UINT8 if name == "images" else TensorProto.FLOAT, shape
        )
        for name, shape in shapes.items()
    }
    values[MAPS] = helper.make_tensor_value_info(MAPS, TensorProto.FLOAT, None)
    constants = {name: array for name, array in tensors.items() if name in used}
    model = load_from_string(onnx_file(nodes, values[takes], values[gives], constants))
    model.graph.output.extend(values[name] for name in outputs)
    return bytes(model.SerializeToString())
