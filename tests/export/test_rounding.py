"""Shapes: S patches, O outputs of a convolution, B blocks, R outputs of a block, K its inputs."""

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from snapensemble.contracts.sessions import open_session
from snapensemble.export.int8.rounding import (
    LARGEST_BLOCK,
    LARGEST_WEIGHT,
    Inputs,
    _answers,
    conv_inputs,
    random_patches,
    round_conv,
    round_weights,
)
from snapensemble.export.onnx_graph import constants


def inputs_of(patches_BSK: np.ndarray) -> Inputs:
    """The statistics of patches that are all there is."""
    covariance_BKK = np.stack([np.cov(patches_SK.T, bias=True) for patches_SK in patches_BSK])
    return Inputs(
        patches_BSK.mean(axis=1), covariance_BKK.reshape(len(patches_BSK), -1, patches_BSK.shape[2])
    )


def nearest(weight: np.ndarray) -> np.ndarray:
    """The weights rounded each by itself."""
    scale = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / LARGEST_WEIGHT
    return np.asarray(np.rint(weight / scale) * scale)


def graph_of(
    weight: np.ndarray, side: int, channels: int, bias: bool = True, **attributes: Any
) -> onnx.ModelProto:
    """One convolution of a float32 input called `features`."""
    tensors = [numpy_helper.from_array(weight.astype(np.float32), "w")]
    if bias:
        tensors.append(numpy_helper.from_array(np.arange(len(weight), dtype=np.float32), "b"))
    names = ["features", *(tensor.name for tensor in tensors)]
    graph = helper.make_graph(
        [helper.make_node("Conv", names, ["y"], "conv", **attributes)],
        "g",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", channels, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def answers(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    (found,) = open_session(model.SerializeToString()).run(None, {"features": x})
    return np.asarray(found)


def test_outputs_of_inputs_that_are_alike_change_far_less_than_by_rounding_to_the_nearest() -> None:
    rng = np.random.default_rng(0)
    common_S1 = rng.normal(size=(2000, 1))
    patches_SK = np.maximum(0, common_S1 + 0.3 * rng.normal(size=(2000, 96)))
    weight = rng.normal(size=(24, 96, 1, 1))
    rounded = round_conv(weight, inputs_of(patches_SK[None]), 1)

    def error(other: np.ndarray, shift_O: np.ndarray | float = 0) -> float:
        return float((((other - weight)[:, :, 0, 0] @ patches_SK.T).T + shift_O).std())

    assert error(rounded.weight, rounded.shift_O) < 0.4 * error(nearest(weight))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 99), st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), st.integers(1, 3)
)
def test_the_mean_of_every_output_stays_and_weights_are_few_multiples_of_its_scale(
    seed: int, groups: int, outputs: int, channels: int, kernel: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(groups * outputs, channels, kernel, kernel))
    weight *= 10.0 ** rng.uniform(-3, 3, (len(weight), 1, 1, 1))
    x_BSK = rng.normal(1, 1, (groups, 50, channels * kernel**2))
    rounded = round_conv(weight, inputs_of(x_BSK), groups)
    steps = rounded.weight / rounded.scale_O.reshape(-1, 1, 1, 1)
    assert np.allclose(steps, np.rint(steps), atol=1e-4)
    assert np.abs(steps).max() <= LARGEST_WEIGHT * 1.0001
    change = (rounded.weight - weight).reshape(groups, outputs, -1)
    moved = np.einsum("grk,gk->gr", change, x_BSK.mean(axis=1)).reshape(-1)
    largest_O = np.abs(weight).max(axis=(1, 2, 3))
    assert np.allclose(moved + rounded.shift_O, 0, atol=1e-4 * largest_O.max())


def test_weights_of_inputs_that_have_nothing_in_common_are_rounded_to_the_nearest() -> None:
    weight = np.random.default_rng(0).normal(size=(8, 12, 1, 1))
    rounded = round_conv(weight, Inputs(np.zeros((1, 12)), np.eye(12)[None]), 1)
    assert np.allclose(rounded.weight, nearest(weight), atol=1e-6)


def test_an_output_without_weights_and_an_input_that_never_changes_do_no_harm() -> None:
    weight = np.random.default_rng(0).normal(size=(3, 4, 1, 1))
    weight[1] = 0
    for covariance in (np.zeros((4, 4)), np.diag([1.0, 0, 2, 0])):
        rounded = round_conv(weight, Inputs(np.ones((1, 4)), covariance[None]), 1)
        assert np.isfinite(rounded.weight).all() and (rounded.weight[1] == 0).all()
        assert rounded.scale_O[1] == 1 and rounded.shift_O[1] == 0


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 99),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.tuples(*[st.integers(1, 2)] * 2),
    st.tuples(*[st.integers(1, 2)] * 2),
    st.sampled_from([(1, 1), (3, 3), (3, 2)]),
)
def test_patches_are_what_the_convolution_of_onnx_runtime_reads(
    seed: int,
    pads: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    kernel: tuple[int, ...],
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, 3, 6, 5)).astype(np.float32)[:, :, :, :5]
    weight = rng.normal(size=(4, 3, *kernel))
    model = graph_of(
        weight, 6, 3, bias=False, pads=pads, strides=strides, dilations=dilations,
        kernel_shape=kernel,
    )  # fmt: skip
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 5
    answers_NOHW = answers(model, x)
    patches = random_patches(x, model.graph.node[0], kernel, rng)
    found_SO = np.einsum("schw,ochw->so", patches, weight)
    expected_SO = answers_NOHW.transpose(0, 2, 3, 1).reshape(-1, 4)
    assert len(found_SO) == 2 * min(16, len(expected_SO) // 2)
    distance = np.abs(found_SO[:, None] - expected_SO[None]).max(axis=2).min(axis=1)
    assert distance.max() < 1e-4
    if len(found_SO) == len(expected_SO):  # every place once
        assert np.allclose(found_SO.sum(axis=0), expected_SO.sum(axis=0), atol=1e-3)


@pytest.mark.parametrize(
    ("shape", "groups", "blocks"),
    [
        ((8, 64, 3, 3), 1, 1),
        ((8, 65, 3, 3), 1, 5),  # 64 would fit, but 65 are 5 times 13
        ((4, 1152, 1, 1), 1, 2),
        ((6, 1, 5, 5), 6, 6),
        ((2, 1, 31, 31), 2, 2),  # one channel is not divided
    ],
)
def test_large_layers_are_divided_into_equal_blocks(
    shape: tuple[int, ...], groups: int, blocks: int
) -> None:
    x = np.random.default_rng(0).normal(size=(2, shape[1] * groups, 31, 31)).astype(np.float32)
    model = graph_of(np.ones(shape), 31, x.shape[1], group=groups)
    (inputs,) = conv_inputs(model, list(model.graph.node), x)
    size = shape[1] * groups * shape[2] * shape[3] // blocks
    assert inputs.mean_BK.shape == (blocks, size)
    assert inputs.covariance_BKK.shape == (blocks, size, size)
    assert size <= LARGEST_BLOCK or shape[1] == 1


@pytest.mark.parametrize("bias", [True, False])
def test_the_mean_over_images_of_each_output_stays_with_and_without_a_bias(bias: bool) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(40, 6, 4, 4)) + rng.normal(2, 1, (6, 1, 1))).astype(np.float32)
    model = graph_of(rng.normal(size=(10, 6, 1, 1)), 4, 6, bias)
    before = answers(model, x)
    scales = round_weights(model, x)
    assert list(scales) == ["w"] and scales["w"].shape == (10,)
    after = answers(model, x)
    assert np.abs(after - before).max() > 1e-3
    assert np.allclose(after.mean(axis=(0, 2, 3)), before.mean(axis=(0, 2, 3)), atol=1e-4)


@pytest.mark.parametrize("lowest", [0.5, -0.5, -1e6])
def test_a_covariance_that_rounding_has_spoilt_is_damped_until_it_can_be_used(
    lowest: float,
) -> None:
    covariance_KK = np.diag([1.0, 1.0, lowest]) + 0.2 * (1 - np.eye(3))
    answer_KK = _answers(covariance_KK, 0.01)
    assert np.isfinite(answer_KK).all() and (np.diag(answer_KK) > 0).all()
    np.testing.assert_array_equal(answer_KK, np.triu(answer_KK))
    if lowest > 0:
        expected = np.linalg.inv(covariance_KK + 0.01 * np.eye(3))
        np.testing.assert_allclose(answer_KK.T @ answer_KK, expected)


def test_weights_that_two_convolutions_read_are_left_alone() -> None:
    model = graph_of(np.random.default_rng(0).normal(size=(6, 6, 1, 1)), 4, 6)
    model.graph.node.append(helper.make_node("Conv", ["y", "w"], ["z"], "again"))
    model.graph.output[0].name = "z"
    before = constants(model.graph)["w"]
    assert round_weights(model, np.ones((2, 6, 4, 4), np.float32)) == {}
    assert (constants(model.graph)["w"] == before).all()
