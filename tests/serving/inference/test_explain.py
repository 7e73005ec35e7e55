"""Parts that give maps: what they must have, and what their maps add up to."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from snapensemble.contracts.bundle import (
    CLASS_BIAS,
    CLASS_WEIGHTS,
    MAPS,
    BundleManifest,
    read_bundle,
)
from snapensemble.contracts.errors import InvalidManifest
from snapensemble.serving.inference.aggregate import Summary
from snapensemble.serving.inference.engine import load_engine
from snapensemble.serving.inference.explain import Asked
from snapensemble.serving.inference.session import load_part
from tests.explained import (
    CHANNELS,
    explained_member,
    explained_trunk,
    h,
    member_of_means,
    shown,
    w,
)
from tests.factories import CLASSES, CONTRACT, make_bundle

IMAGES = np.random.default_rng(5).integers(0, 256, (9, *CONTRACT.shape), dtype=np.uint8)
SUMMARY = Summary(probs_K=[0.2, 0.5, 0.3], order_K=[1, 2, 0], entropy_nats=1, disagreement_nats=0)


def test_the_mean_over_positions_is_the_logit(tmp_path: Path) -> None:
    directory = make_bundle(tmp_path / "whole", [explained_member(4)])
    bundle = read_bundle(directory)
    member = load_part(directory, bundle, bundle.members[0])
    logits_BK, maps_BChw = member.with_maps(IMAGES)
    assert maps_BChw is not None
    np.testing.assert_array_equal(logits_BK, member(IMAGES))
    for logits_K, maps_Chw in zip(logits_BK, maps_BChw, strict=True):
        evidence_Khw = member.evidence(maps_Chw, slice(None))
        assert evidence_Khw.shape == (len(CLASSES), h, w)
        np.testing.assert_allclose(evidence_Khw.mean(axis=(1, 2)), logits_K, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(member.evidence(maps_Chw, [2]), evidence_Khw[[2]], atol=1e-4)


CHANGES: dict[str, dict[str, Any]] = {
    "weights for other channels": {"weights": (len(CLASSES), CHANNELS + 1)},
    "weights for other classes": {"weights": (len(CLASSES) + 1, CHANNELS)},
    "a bias for other classes": {"bias": (len(CLASSES) + 1,)},
    "maps of other channels": {"maps": "float"},
    "no maps": {"outputs": (CLASS_WEIGHTS, CLASS_BIAS)},
    "no weights": {"outputs": (MAPS,)},
    "no bias": {"outputs": (MAPS, CLASS_WEIGHTS)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_member_whose_maps_and_weights_do_not_fit_is_refused(change: str, tmp_path: Path) -> None:
    directory = make_bundle(tmp_path / "bundle", [explained_member(0, **CHANGES[change])])
    with pytest.raises(InvalidManifest, match=r"after its first output the graph gives \["):
        load_engine(directory)


@pytest.mark.parametrize(
    ("trunk", "member"),
    [
        (explained_trunk(maps="float"), member_of_means(0)),
        (explained_trunk(), member_of_means(0, weights=(len(CLASSES), CHANNELS + 1))),
        (explained_trunk(), member_of_means(0, outputs=(CLASS_BIAS,))),
    ],
)
def test_parts_whose_maps_and_weights_do_not_fit_are_refused(
    trunk: bytes, member: bytes, tmp_path: Path
) -> None:
    directory = make_bundle(tmp_path / "trunk", [member], trunk=trunk, features=(CHANNELS,))
    with pytest.raises(InvalidManifest, match=r"after its first output the graph gives \["):
        load_engine(directory)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> BundleManifest:
    """The manifest of two members."""
    directory = tmp_path_factory.mktemp("two") / "bundle"
    return read_bundle(make_bundle(directory, [explained_member(0), explained_member(1)]))


@given(
    evidence_dnhw=arrays(np.float32, (2, 1, h, w), elements=st.floats(-1e4, 1e4, width=32)),
    weight=st.sampled_from([0.5, 0.9]),
)
def test_what_a_client_reads_is_half_a_step_of_grey_from_the_evidence(
    evidence_dnhw: NDArray[np.float32], weight: float, two: BundleManifest
) -> None:
    weights_M = (weight, 1 - weight)
    members = [
        member.model_copy(update={"weight": each})
        for member, each in zip(two.members, weights_M, strict=True)
    ]
    bundle = two.model_copy(update={"members": tuple(members)})
    (found,) = Asked(bundle, (2,)).explanations(list(evidence_dnhw), SUMMARY)
    as_json = {"png": found.png, "low": found.low, "high": found.high}
    assert found.index == 2 and found.low <= found.high
    evidence_HW = shown(as_json)
    assert evidence_HW.shape == CONTRACT.shape[1:]
    mean_hw = np.tensordot(weights_M, evidence_dnhw[:, 0].astype(np.float64), axes=1)
    assert mean_hw.min() - 0.01 <= found.low <= found.high <= mean_hw.max() + 0.01
    step = (found.high - found.low) / 255
    # Each corner is what the nearest position says: interpolation goes no further out.
    corners = mean_hw[[0, 0, -1, -1], [0, -1, 0, -1]]
    read = evidence_HW[[0, 0, -1, -1], [0, -1, 0, -1]]
    np.testing.assert_allclose(read, corners, atol=step / 2 + 0.01)
    bound = Asked(bundle, (2,)).max_bytes([(CHANNELS, h, w)] * 2)
    assert 2 * len(found.png) + len(base64.b64decode(found.png)) <= bound
