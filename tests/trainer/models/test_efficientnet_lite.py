"""The networks are the published ones: by their sizes, and against other ways to compute them."""

from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from snapensemble.trainer.models.efficientnet_lite import MBConv, SamePadded, rounded
from snapensemble.trainer.models.pretrained import published_weights
from snapensemble.trainer.models.registry import PooledClassifier, build_model, parameter_count
from snapensemble.trainer.models.timm import imported_timm
from tests.trainer.models.contracts import lite_contract as contract

LITE = [f"efficientnet-lite{number}" for number in range(3)]


def noise_BCHW(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.manual_seed(3), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "count"), list(zip(LITE, (4_652_008, 5_416_680, 6_092_072), strict=True))
)
def test_there_are_as_many_parameters_as_were_published(name: str, count: int) -> None:
    with torch.device("meta"):
        model = build_model(name, 1000, contract())
    assert parameter_count(model) == count


@pytest.mark.parametrize("name", LITE)
@pytest.mark.parametrize(("height", "width"), [(64, 64), (75, 98)])
def test_the_logits_are_those_of_timms_network_with_the_same_weights(
    name: str, height: int, width: int
) -> None:
    model = build_model(name, 1000, contract(height, width), pretrained="hub").eval()
    other = imported_timm().create_model(f"tf_{name.replace('-', '_')}").eval()
    keys = [key for key in other.state_dict() if "num_batches" not in key]
    weights = [value for key, value in published_weights(name).items() if "num_batches" not in key]
    other.load_state_dict(dict(zip(keys, weights, strict=True)), strict=False)
    images_BCHW = noise_BCHW(2, 3, height, width)
    with torch.no_grad():
        expected_BK = other((images_BCHW.float() - 127) / 128)
        found_BK = model(images_BCHW)
    assert expected_BK.std() > 0.3
    assert torch.allclose(found_BK, expected_BK, atol=1e-3)


def convolved_plainly(x_HW: np.ndarray, kernel_KK: np.ndarray, stride: int) -> np.ndarray:
    """As TensorFlow documents padding='SAME'."""
    kernel = len(kernel_KK)
    shape = [ceil(size / stride) for size in x_HW.shape]
    before = [
        max(0, (out - 1) * stride + kernel - size) // 2
        for out, size in zip(shape, x_HW.shape, strict=True)
    ]
    padded_HW = np.zeros(np.add(x_HW.shape, 2 * kernel))
    rows, columns = (slice(b, b + size) for b, size in zip(before, x_HW.shape, strict=True))
    padded_HW[rows, columns] = x_HW
    return np.array(
        [
            [
                (padded_HW[y : y + kernel, x : x + kernel] * kernel_KK).sum()
                for x in range(0, shape[1] * stride, stride)
            ]
            for y in range(0, shape[0] * stride, stride)
        ]
    )


@given(
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    seed=st.integers(0, 9),
)
def test_a_convolution_pads_as_tensorflow_does(
    height: int, width: int, kernel: int, stride: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x_HW, kernel_KK = rng.normal(size=(height, width)), rng.normal(size=(kernel, kernel))
    layer = SamePadded(1, 1, kernel, stride, groups=1).double()
    layer.weight.data[0, 0] = torch.from_numpy(kernel_KK)
    found_HW = layer(torch.from_numpy(x_HW)[None, None])[0, 0].detach().numpy()
    np.testing.assert_allclose(found_HW, convolved_plainly(x_HW, kernel_KK, stride), atol=1e-12)


@given(channels=st.floats(1, 2000))
def test_scaled_channels_are_a_multiple_of_8_near_by(channels: float) -> None:
    found = rounded(channels)
    assert found % 8 == 0 and found >= 8
    assert 0.9 * channels <= found <= max(8, channels + 8)


@pytest.mark.parametrize("name", LITE)
def test_every_stage_has_a_name_and_shrinks_the_image_where_it_should(name: str) -> None:
    model = build_model(name, 3, contract(96, 64)).eval()
    assert isinstance(model, PooledClassifier)
    x, sides = model.normalised(noise_BCHW(1, 3, 96, 64)), {}
    with torch.no_grad():
        for stage, layer in zip(model.stage_names, model.features, strict=True):
            x = layer(x)
            sides[stage] = tuple(x.shape[2:])
    # Table 1 of the paper: stride 2 at the stem and at stages 2, 3, 4 and 6.
    assert sides == {
        "stem": (48, 32),
        "stage1": (48, 32),
        "stage2": (24, 16),
        "stage3": (12, 8),
        "stage4": (6, 4),
        "stage5": (6, 4),
        "stage6": (3, 2),
        "stage7": (3, 2),
        "top": (3, 2),
    }


@pytest.mark.parametrize(("width", "stride", "adds"), [(8, 1, True), (8, 2, False), (16, 1, False)])
def test_a_block_adds_its_input_where_that_has_the_outputs_shape(
    width: int, stride: int, adds: bool
) -> None:
    block = MBConv(8, width, expansion=6, stride=stride, kernel=3).eval()
    last = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)][-1]
    nn.init.zeros_(last.weight)
    x_BCHW = torch.rand(2, 8, 6, 6, generator=torch.manual_seed(0))
    expected = x_BCHW if adds else torch.zeros(2, width, 6 // stride, 6 // stride)
    assert torch.equal(block(x_BCHW), expected)


def test_the_means_of_the_last_maps_are_dropped_in_training_only() -> None:
    model = build_model("efficientnet-lite2", 3, contract())
    assert isinstance(model, PooledClassifier)
    assert model.dropout.p == 0.3
    images_BCHW = noise_BCHW(2, 3, 64, 64)
    with torch.no_grad():
        first, second = (model.eval()(images_BCHW) for _ in range(2))
    assert torch.equal(first, second)
