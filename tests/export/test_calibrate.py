import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from snapensemble.export.quantize import IMAGES_AT_A_TIME, activation_ranges


def model() -> onnx.ModelProto:
    """images -> as float32 -> minus 100 -> the largest pixel of each."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["pixels", "hundred"], ["centred"]),
            helper.make_node("ReduceMax", ["centred", "axes"], ["logits"], keepdims=0),
        ],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 1, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])],
        [
            numpy_helper.from_array(np.array(100, np.float32), "hundred"),
            numpy_helper.from_array(np.array([2, 3]), "axes"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made)


def test_the_range_of_every_tensor_is_over_all_images() -> None:
    images = np.full((3 * IMAGES_AT_A_TIME + 1, 1, 2, 2), 90, np.uint8)
    images[IMAGES_AT_A_TIME + 3, 0, 1, 0] = 7
    images[-1, 0, 0, 1] = 201
    ranges = activation_ranges(model(), images)
    assert {name: tuple(map(float, each)) for name, each in ranges.items()} == {
        "pixels": (7, 201),
        "centred": (-93, 101),
        "logits": (-10, 101),
    }


def test_the_model_is_left_as_it_was() -> None:
    watched = model()
    before = watched.SerializeToString()
    activation_ranges(watched, np.zeros((2, 1, 2, 2), np.uint8))
    assert watched.SerializeToString() == before
