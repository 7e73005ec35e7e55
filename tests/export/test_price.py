"""How many operations a file takes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from snapensemble.contracts.bundle import Price
from snapensemble.export.cli import describe_price
from snapensemble.export.onnx_graph import operations
from tests.factories import CLASSES, CONTRACT, linear_member
from tests.networks import exported


def of_node(node: onnx.NodeProto, shape: list[int], *weights: tuple[int, ...]) -> int:
    """The operations of a graph of one node that takes one tensor beside its weights."""
    initializers = [
        numpy_helper.from_array(np.zeros(weight, np.float32), f"w{place}")
        for place, weight in enumerate(weights)
    ]
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    return operations(model.SerializeToString())


def test_resnet20_takes_41_million_pairs_for_an_image_of_cifar() -> None:
    # He et al. 2016, table 6 and section 4.2; with the shortcuts' convolutions of option B.
    assert operations(exported("resnet20", 32)) / 2 == pytest.approx(41e6, rel=0.02)


@pytest.mark.slow
def test_efficientnet_lite0_takes_two_fifths_of_a_milliard_pairs_at_its_own_size() -> None:
    pairs = operations(exported("efficientnet-lite0", 64)) / 2
    assert pairs * (224 / 64) ** 2 == pytest.approx(0.4e9, rel=0.05)


def test_a_matrix_takes_a_pair_for_each_of_its_numbers() -> None:
    assert operations(linear_member(0)) == 2 * int(np.prod(CONTRACT.shape)) * len(CLASSES)
    assert of_node(helper.make_node("Gemm", ["x", "w0"], ["y"], transB=1), [7], (5, 7)) == 70
    assert of_node(helper.make_node("MatMul", ["x", "w0"], ["y"]), [4, 7], (7, 5)) == 280


def test_a_convolution_takes_its_kernel_for_each_pixel_and_channel_that_it_makes() -> None:
    conv = helper.make_node("Conv", ["x", "w0"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])
    assert of_node(conv, [3, 8, 8], (16, 3, 3, 3)) == 2 * 16 * 4 * 4 * 27
    alone = helper.make_node("Conv", ["x", "w0"], ["y"], group=6, pads=[1, 1, 1, 1])
    assert of_node(alone, [6, 8, 8], (6, 1, 3, 3)) == 2 * 6 * 8 * 8 * 9


def test_what_only_moves_numbers_costs_nothing() -> None:
    assert of_node(helper.make_node("Relu", ["x"], ["y"]), [3, 8, 8]) == 0


def test_a_price_is_told_in_operations_and_in_single_networks() -> None:
    price = Price(trunk=600_000_000, members=(100_000_000, 100_000_000))
    assert describe_price(price) == (
        "an image takes 800 million operations, of which the shared trunk 600: the price of "
        "1.14 networks"
    )
    assert describe_price(Price(members=(2_000_000,) * 3)).endswith("the price of 3.00 networks")
    assert describe_price(Price(members=(194_560,))).startswith("an image takes 0.19 million oper")
