"""The smallest and the largest value of each tensor, over real images.

Shapes: N images, C channels, H height, W width.
"""

from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from contracts.sessions import open_session

IMAGES_AT_A_TIME = 16


class Range(NamedTuple):
    """What a tensor's values were between."""

    smallest: np.float32
    largest: np.float32


def activation_ranges(model: onnx.ModelProto, images_NCHW: NDArray[np.uint8]) -> dict[str, Range]:
    """The range of each float32 tensor that a node makes.

    Args:
        model: with the types of all tensors, see `onnx.shape_inference`.
        images_NCHW: what the network will see.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = [
        value.name
        for value in (*model.graph.value_info, *model.graph.output)
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
    session = open_session(watched.SerializeToString())
    found = np.array(
        [
            session.run(outputs, {"images": images_NCHW[start : start + IMAGES_AT_A_TIME]})
            for start in range(0, len(images_NCHW), IMAGES_AT_A_TIME)
        ]
    )
    smallest, largest = found[:, ::2].min(axis=0), found[:, 1::2].max(axis=0)
    return {name: Range(smallest[row], largest[row]) for row, name in enumerate(names)}
