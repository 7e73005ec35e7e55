"""Rounding the weights of convolutions so that what they compute changes least.

Rounding each weight to its nearest neighbour is best for weights, not for outputs: where inputs
are alike, errors of the same sign add up, and the mean of a channel moves. Networks whose layers
have few weights per output, such as MobileNets, are spoilt by it (docs/decisions/0037). Here the
weights of an output are rounded one after the other, and those that are left make up for the error
(GPTQ, Frantar et al. 2022, arXiv:2210.17323); what remains of it in the mean goes into the bias
(Nagel et al. 2019, arXiv:1906.04721, section 4.2).

Shapes: N images, S patches, C channels, H height, W width, O outputs of a convolution; B blocks of
inputs, R outputs that read a block, K numbers of a patch in a block.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from snapensemble.contracts.sessions import open_session
from snapensemble.export.onnx_graph import (
    add_constant,
    attribute,
    bias_of,
    constants,
    replace_nodes,
)

IMAGES_AT_A_TIME = 8  # the inputs of all layers are in memory at once
PATCHES_PER_IMAGE = 16
# Inputs that make up for each other's errors: the time grows with the square. More of them are
# divided into blocks that know nothing of each other.
LARGEST_BLOCK = 576
DAMPING = 0.01  # of the mean variance, added to each: GPTQ's own value
MORE_DAMPING = 8  # times ten each, before weights are rounded one by one
LARGEST_WEIGHT = 64  # seven bits, see `quantize.REDUCE_RANGE`


class Inputs(NamedTuple):
    """What a convolution reads: the mean and the covariances of its patches, block by block."""

    mean_BK: NDArray[np.float64]
    covariance_BKK: NDArray[np.float64]


class Rounded(NamedTuple):
    """Weights that are multiples of their output's scale, and what the bias makes up for."""

    weight: NDArray[np.float32]
    scale_O: NDArray[np.float32]
    shift_O: NDArray[np.float64]


def round_weights(
    model: onnx.ModelProto, images: NDArray[np.generic]
) -> dict[str, NDArray[np.float32]]:
    """Round the weights of every convolution in place, and correct its bias.

    Args:
        model: a graph of one input in float32, whose batch normalisations are folded.
        images: what that input takes, like those that the network will see.

    Returns:
        The scales by the weights' name: each weight is up to 64 times its output's.
    """
    graph = model.graph
    arrays, scales = constants(graph), {}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    convs = _with_own_weights(graph, arrays)
    if not convs:
        return {}
    for conv, inputs in zip(convs, conv_inputs(model, convs, images), strict=True):
        name = conv.input[1]
        rounded = round_conv(arrays[name].astype(np.float64), inputs, _groups(conv))
        tensors[name].CopyFrom(numpy_helper.from_array(rounded.weight, name))
        bias_O = (bias_of(conv, arrays) + rounded.shift_O).astype(np.float32)
        del conv.input[2:]
        conv.input.append(add_constant(graph, f"{conv.output[0]}.corrected", bias_O))
        scales[name] = rounded.scale_O
    replace_nodes(graph, graph.node)
    return scales


def round_conv(weight: NDArray[np.float64], inputs: Inputs, groups: int) -> Rounded:
    """Round the weights of one convolution.

    Args:
        weight: [O, C / groups, height, width].
        inputs: of as many blocks as `conv_inputs` makes.
        groups: the convolution's.
    """
    outputs = len(weight)
    per_group = len(inputs.mean_BK) // groups
    by_group = weight.reshape(groups, outputs // groups, per_group, -1)
    left_BRK = by_group.transpose(0, 2, 1, 3).reshape(len(inputs.mean_BK), outputs // groups, -1)
    largest_O = np.abs(weight).reshape(outputs, -1).max(axis=1)
    scale_O = np.where(largest_O > 0, largest_O / LARGEST_WEIGHT, 1).astype(np.float32)
    scale_BR = np.repeat(scale_O.reshape(groups, -1), per_group, axis=0)
    rounded_BRK = _rounded_in_turn(left_BRK, inputs.covariance_BKK, scale_BR)
    shift_BR = np.einsum("brk,bk->br", left_BRK - rounded_BRK, inputs.mean_BK)
    back = rounded_BRK.reshape(groups, per_group, outputs // groups, -1).transpose(0, 2, 1, 3)
    shift_O = shift_BR.reshape(groups, per_group, -1).sum(axis=1).reshape(outputs)
    return Rounded(back.reshape(weight.shape).astype(np.float32), scale_O, shift_O)


def conv_inputs(
    model: onnx.ModelProto, convs: Sequence[onnx.NodeProto], images: NDArray[np.generic]
) -> list[Inputs]:
    """What each convolution reads, over patches at random places of each image."""
    weights = constants(model.graph)
    names = sorted({conv.input[0] for conv in convs})
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    session, given = open_session(watched.SerializeToString()), model.graph.input[0].name
    rng = np.random.default_rng(0)
    count = [0] * len(convs)
    sums: list[NDArray[np.float64]] = [np.zeros(())] * len(convs)
    products = list(sums)
    for start in range(0, len(images), IMAGES_AT_A_TIME):
        found = session.run(names, {given: images[start : start + IMAGES_AT_A_TIME]})
        tensors = dict(zip(names, found, strict=True))
        for index, conv in enumerate(convs):
            patches_SCHW = random_patches(
                tensors[conv.input[0]], conv, weights[conv.input[1]].shape[2:], rng
            )
            S = len(patches_SCHW)
            blocks = _blocks(weights[conv.input[1]].shape, _groups(conv))
            patches_BSK = patches_SCHW.reshape(S, blocks, -1).transpose(1, 0, 2)
            count[index] += S
            sums[index] = sums[index] + patches_BSK.sum(axis=1, dtype=np.float64)
            products[index] = products[index] + patches_BSK.transpose(0, 2, 1) @ patches_BSK
    inputs = []
    for S, sum_BK, product_BKK in zip(count, sums, products, strict=True):
        mean_BK = sum_BK / S
        inputs.append(Inputs(mean_BK, product_BKK / S - mean_BK[:, :, None] * mean_BK[:, None]))
    return inputs


def random_patches(
    x_NCHW: NDArray[np.float32],
    conv: onnx.NodeProto,
    kernel: tuple[int, ...],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """What a convolution sees at up to 16 places of each image, borders included: patches_SCHW."""
    given = _given(conv)
    top, left, bottom, right = given.get("pads", [0, 0, 0, 0])
    strides, dilations = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
    padded = np.pad(x_NCHW, ((0, 0), (0, 0), (top, bottom), (left, right)))
    spans = tuple(step * (size - 1) + 1 for step, size in zip(dilations, kernel, strict=True))
    windows = sliding_window_view(padded, spans, axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    N, _, H, W = windows.shape[:4]
    places = min(PATCHES_PER_IMAGE, H * W)
    place_S = np.concatenate([rng.choice(H * W, places, replace=False) for _ in range(N)])
    image_S = np.repeat(np.arange(N), places)
    patches: NDArray[np.float32] = windows[image_S, :, place_S // W, place_S % W]
    return patches


def _rounded_in_turn(
    weight_BRK: NDArray[np.float64],
    covariance_BKK: NDArray[np.float64],
    scale_BR: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Each weight to a multiple of its scale; the next ones take over what that changes.

    Inputs of the largest variance come first, while many others can make up for them.
    """
    variance_BK = np.einsum("bkk->bk", covariance_BKK)
    order_BK = np.argsort(-variance_BK, axis=1, kind="stable")
    added_B = np.maximum(DAMPING * variance_BK.mean(axis=1), np.finfo(np.float32).tiny)
    ordered = np.take_along_axis(covariance_BKK, order_BK[:, :, None], axis=1)
    ordered = np.take_along_axis(ordered, order_BK[:, None], axis=2)
    # Row k says how the weights after k answer an error of k at the least cost.
    answer_BKK = np.stack([_answers(*each) for each in zip(ordered, added_B, strict=True)])
    left_BRK = np.take_along_axis(weight_BRK, order_BK[:, None], axis=2)
    rounded_BRK = np.empty_like(left_BRK)
    for k in range(left_BRK.shape[-1]):
        steps_BR = np.clip(np.rint(left_BRK[..., k] / scale_BR), -LARGEST_WEIGHT, LARGEST_WEIGHT)
        rounded_BRK[..., k] = steps_BR * scale_BR
        error_BR = (left_BRK[..., k] - rounded_BRK[..., k]) / answer_BKK[:, None, k, k]
        left_BRK[..., k + 1 :] -= error_BR[..., None] * answer_BKK[:, None, k, k + 1 :]
    return np.take_along_axis(rounded_BRK, np.argsort(order_BK, axis=1)[:, None], axis=2)


def _answers(covariance_KK: NDArray[np.float64], added: float) -> NDArray[np.float64]:
    """The upper triangle U of the damped inverse, which is transposed(U) U.

    Inputs that nearly repeat each other may need more damping before the inverse has one.
    """
    for _ in range(MORE_DAMPING):
        damped = covariance_KK + added * np.eye(len(covariance_KK))
        with contextlib.suppress(np.linalg.LinAlgError):
            return np.linalg.cholesky(np.linalg.inv(damped)).T
        added *= 10
    return np.eye(len(covariance_KK)) / math.sqrt(added)  # each weight for itself


def _blocks(shape: tuple[int, ...], groups: int) -> int:
    """How many blocks the inputs are divided into: each group, into equal parts if it is large."""
    channels, pixels = shape[1], math.prod(shape[2:])
    parts = 1
    while channels % parts or (channels // parts * pixels > LARGEST_BLOCK and parts < channels):
        parts += 1
    return groups * parts


def _groups(conv: onnx.NodeProto) -> int:
    return int(attribute(conv, "group", 1))


def _given(node: onnx.NodeProto) -> dict[str, Any]:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def _with_own_weights(
    graph: onnx.GraphProto, arrays: dict[str, NDArray[np.generic]]
) -> list[onnx.NodeProto]:
    """The convolutions of images whose weights are constants that nothing else reads."""
    readers = Counter(name for node in graph.node for name in node.input)
    return [
        node
        for node in graph.node
        if node.op_type == "Conv"
        and all(name in arrays for name in node.input[1:])
        and arrays[node.input[1]].ndim == 4
        and readers[node.input[1]] == 1
        and _given(node).get("auto_pad", b"NOTSET") == b"NOTSET"
    ]
