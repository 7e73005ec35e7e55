"""Maps of real networks: what torch has before the mean, and whether they add up to the logits.

Shapes: B images, C channels, K classes.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import snapensemble.export.onnx_export
from snapensemble.contracts.bundle import CLASS_BIAS, CLASS_WEIGHTS, MAPS
from snapensemble.contracts.sessions import open_session
from snapensemble.export.bundle import build_bundle
from snapensemble.export.class_maps import hide_maps
from snapensemble.export.config import ExportConfig
from snapensemble.export.int8.quantize import to_int8
from snapensemble.export.onnx_export import Converter, to_onnx
from snapensemble.export.onnx_graph import constants
from snapensemble.export.parity import ParityFailed, parity
from snapensemble.serving.inference.engine import load_engine
from snapensemble.serving.inference.session import load_part
from snapensemble.trainer.models.registry import TakesImages, WrappedClassifier
from snapensemble.trainer.models.timm import imported_timm
from snapensemble.trainer.models.tuning import divided
from tests.networks import exported, image_of, noise_NCHW, trained

NETWORKS = {"tiny": 16, "tiny+whiten": 16, "resnet20": 16, "wrn-16-4": 16, "densenet-40-12": 16,
            "efficientnet-lite0": 64}  # fmt: skip
QUICK = ("tiny", "tiny+whiten", "resnet20")
EVERYTHING = [MAPS, CLASS_WEIGHTS, CLASS_BIAS]


def outputs(onnx_file: bytes, inputs: np.ndarray) -> dict[str, np.ndarray]:
    session = open_session(onnx_file)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: inputs}), strict=True))


def evidence_of_means(found: dict[str, np.ndarray]) -> np.ndarray:
    """The means over positions of all class activation maps."""
    means_BC = found[MAPS].mean(axis=(2, 3))
    evidence_BK: np.ndarray = means_BC @ found[CLASS_WEIGHTS].T + found[CLASS_BIAS]
    return evidence_BK


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS],
)
def test_maps_are_what_torch_has_before_the_mean_and_add_up_to_the_logits(name: str) -> None:
    side = NETWORKS[name]
    images_BCHW = noise_NCHW(side)[:5]
    network: Any = trained(name, side)
    found = outputs(exported(name, side), images_BCHW)
    assert list(found) == ["logits", *EVERYTHING]
    with torch.inference_mode():
        maps_BChw = network.features(network.normalised(torch.from_numpy(images_BCHW)))
    scale = float(maps_BChw.abs().max())
    np.testing.assert_allclose(found[MAPS], maps_BChw.numpy(), atol=1e-4 * scale)
    np.testing.assert_allclose(evidence_of_means(found), found["logits"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_outputs_more_are_no_nodes_and_change_no_bit_of_the_logits(precision: str) -> None:
    images_BCHW = noise_NCHW(16)
    given = exported("resnet20", 16)
    with_maps = onnx.load_from_string(given if precision == "fp32" else to_int8(given, images_BCHW))
    without = onnx.ModelProto()
    without.CopyFrom(with_maps)
    hide_maps(without)
    assert [value.name for value in without.graph.output] == ["logits"]
    assert list(without.graph.node) == list(with_maps.graph.node)
    logits_BK, plain_BK = (
        open_session(each.SerializeToString()).run(["logits"], {"images": images_BCHW[:7]})[0]
        for each in (with_maps, without)
    )
    np.testing.assert_array_equal(logits_BK, plain_BK)


@pytest.mark.parametrize("name", ["tiny", "resnet20"])
def test_maps_in_int8_add_up_to_the_logits_but_for_the_rounding_of_the_means(name: str) -> None:
    side = NETWORKS[name]
    images_BCHW = noise_NCHW(side)
    data = to_int8(exported(name, side), images_BCHW)
    found = outputs(data, images_BCHW)
    assert list(found) == ["logits", *EVERYTHING]
    graph = onnx.load_from_string(data).graph
    pool = next(node for node in graph.node if node.op_type == "GlobalAveragePool")
    quantise = next(node for node in graph.node if node.input[0] == pool.output[0])
    step = float(constants(graph)[quantise.input[1]])
    bound_K = np.abs(found[CLASS_WEIGHTS]).sum(axis=1) * step / 2
    gaps_BK = np.abs(evidence_of_means(found) - found["logits"])
    assert gaps_BK.max() > 1e-4, "the means are not rounded, so the bound shows nothing"
    # Sums are rounded as well, so that a mean may be next to the middle of two steps.
    assert (gaps_BK <= 1.01 * bound_K + 1e-3).all()


@pytest.mark.slow
@pytest.mark.parametrize("tune", ["head", "stage6"])
def test_a_trunk_that_pools_gives_the_maps_and_a_stage_has_its_own(tune: str) -> None:
    side = 64
    images_BCHW = noise_NCHW(side)[:5]
    network = trained("efficientnet-lite0", side)
    whole = outputs(exported("efficientnet-lite0", side), images_BCHW)
    front, member = divided(network, tune)
    converter = Converter(image_of(side))
    trunk = outputs(converter.convert(front, {}, gives="features"), images_BCHW)
    shape = trunk["features"].shape[1:]
    part = outputs(converter.convert(member, {}, features=shape), trunk["features"])
    assert list(trunk) == (["features", MAPS] if tune == "head" else ["features"])
    assert list(part) == ["logits", *(EVERYTHING[1:] if tune == "head" else EVERYTHING)]
    found = trunk | part
    np.testing.assert_allclose(found[MAPS], whole[MAPS], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(evidence_of_means(found), whole["logits"], rtol=1e-3, atol=1e-3)


class Ends(nn.Module):
    """A convolution, and an end of any kind."""

    def __init__(self, *end: nn.Module) -> None:
        super().__init__()
        self.first, self.end = nn.Conv2d(3, 6, 3), nn.Sequential(*end)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.end(torch.relu(self.first(x)))
        return result


class Means(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(-2, -1))


class Times(nn.Module):
    """A linear layer without bias, written as a product."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(6, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.matrix


def converted(*end: nn.Module) -> bytes:
    torch.manual_seed(0)
    network: TakesImages = WrappedClassifier(Ends(*end), image_of(8))
    return to_onnx(network, image_of(8))


EXPLAINED = {
    "adaptive pool": (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)),
    "dropout": (Means(), nn.Dropout(0.5), nn.Linear(6, 4)),
    "no bias": (Means(), nn.Linear(6, 4, bias=False)),
    "a product": (Means(), Times()),
    "a window as large as the maps": (nn.AvgPool2d(6), nn.Flatten(), nn.Linear(6, 4)),
}
NOT_EXPLAINED = {
    "a layer between": (Means(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4)),
    "a norm between": (Means(), nn.LayerNorm(6), nn.Linear(6, 4)),
    "a smaller window": (nn.AvgPool2d(3), nn.Flatten(), nn.Linear(24, 4)),
    "the maximum": (nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 4)),
    "something after the layer": (Means(), nn.Linear(6, 4), nn.Tanh()),
    "positions as features": (nn.Flatten(), nn.Linear(216, 4)),
}


@pytest.mark.parametrize("end", EXPLAINED)
def test_a_mean_and_a_linear_layer_are_found_however_they_are_written(end: str) -> None:
    found = outputs(converted(*EXPLAINED[end]), noise_NCHW(8)[:3])
    assert list(found) == ["logits", *EVERYTHING] and found[MAPS].shape == (3, 6, 6, 6)
    assert found[CLASS_WEIGHTS].shape == (4, 6) and found[CLASS_BIAS].shape == (4,)
    np.testing.assert_allclose(evidence_of_means(found), found["logits"], atol=1e-5)


@pytest.mark.parametrize("end", NOT_EXPLAINED)
def test_any_other_end_gives_no_maps(end: str) -> None:
    assert list(outputs(converted(*NOT_EXPLAINED[end]), noise_NCHW(8)[:3])) == ["logits"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gives_maps"),
    [("resnet10t", True), ("mobilenetv2_050", True), ("mobilenetv3_small_050", False)],
)
def test_networks_of_timm_are_told_apart_by_their_graphs(name: str, gives_maps: bool) -> None:
    imported_timm()
    found = outputs(exported(f"timm:{name}", 64), noise_NCHW(64)[:2])
    assert list(found) == ["logits", *(EVERYTHING if gives_maps else [])]
    if gives_maps:
        np.testing.assert_allclose(evidence_of_means(found), found["logits"], atol=1e-4)


def test_maps_that_do_not_add_up_to_what_torch_answers_are_not_published() -> None:
    network, good = trained("tiny", 16), exported("tiny", 16)
    check = partial(parity, network, images_NCHW=noise_NCHW(16), what="cycle-00")
    check([good])
    model = onnx.load_from_string(good)
    (weights,) = (each for each in model.graph.initializer if each.name == CLASS_WEIGHTS)
    right_KC = numpy_helper.to_array(weights)
    weights.CopyFrom(numpy_helper.from_array(right_KC * np.float32(1.01), CLASS_WEIGHTS))
    model.graph.initializer.append(numpy_helper.from_array(right_KC, "right"))
    (gemm,) = (node for node in model.graph.node if node.op_type == "Gemm")
    gemm.input[1] = "right"  # so that the logits are right, and only the maps are not
    with pytest.raises(ParityFailed, match="cycle-00"):
        check([model.SerializeToString()])


def test_the_export_says_in_one_line_that_answers_cannot_be_explained(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: dict[str, list[str]] = {"with": [], "without": []}
    config = ExportConfig(select="best", members=2, report=False)
    for case, notes in said.items():
        if case == "without":
            monkeypatch.setattr(snapensemble.export.onnx_export, "expose_maps", lambda _: None)
        build_bundle(digits_run, tmp_path / case, config, say=notes.append)
        with load_engine(tmp_path / case) as engine:
            assert (engine.maps is None) == (case == "without")
    (line,) = [note for note in said["without"] if "class activation maps" in note]
    assert "cycle-" in line and "small" in line and "\n" not in line
    assert not any("class activation maps" in note for note in said["with"])


def test_the_map_of_a_trained_network_adds_up_to_its_mean_logit(digits_bundle: Path) -> None:
    with load_engine(digits_bundle) as engine:
        bundle = engine.bundle
        parts = [load_part(digits_bundle, bundle, member) for member in bundle.members]
        images = np.random.default_rng(0).integers(0, 256, (3, *bundle.image.shape), dtype=np.uint8)
        asked = engine.asked(["true"])
        for image_CHW, answer in zip(images, engine.submit(list(images), asked=asked), strict=True):
            outputs = answer.whole()
            assert outputs.summary is not None
            (explanation,) = outputs.explanation
            assert explanation.index == outputs.summary.order_K[0]
            logits_MK = np.stack([part(image_CHW[None])[0] for part in parts])
            mean = float(np.dot(bundle.weights_M, logits_MK[:, explanation.index]))
            assert explanation.low <= mean <= explanation.high
