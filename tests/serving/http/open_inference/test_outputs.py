"""Outputs of answers that not all members have given, and of values that JSON does not have."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from snapensemble.contracts.bundle import read_bundle
from snapensemble.serving.http.adapters.adapter import InferenceResponse
from snapensemble.serving.http.adapters.open_inference.outputs import OUTPUTS, Requested, tensors
from snapensemble.serving.http.adapters.open_inference.rest import encoded
from snapensemble.serving.http.responses import Promised, with_summary
from snapensemble.serving.http.schemas import PredictOptions
from snapensemble.serving.inference.request import MemberOutputs
from tests.factories import calibration_record, make_bundle

PROBS_MK = np.array([[0.2, 0.3, 0.5], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8]])


@pytest.fixture
def answered(tmp_path: Path) -> InferenceResponse:
    """Answers of all members, of the first two, and of the first and the last in time."""
    bundle = read_bundle(make_bundle(tmp_path / "bundle", calibration=calibration_record(0.6)))
    found = [
        MemberOutputs(PROBS_MK),
        MemberOutputs(PROBS_MK[:2]),
        MemberOutputs(PROBS_MK[[0, 2]], partial_of=(0, 2)),
    ]
    assert bundle.calibration is not None
    promised = Promised(quantile=bundle.calibration.sets[0])
    summed = [with_summary(each, bundle) for each in found]
    return InferenceResponse(summed, PredictOptions(), promised, "a", "b", bundle)


def values(answered: InferenceResponse, name: str) -> NDArray[np.float64]:
    (tensor,) = tensors(answered, [Requested(name)])
    return np.array(tensor.flat()).reshape(tensor.shape)


def test_members_that_gave_no_answer_have_rows_of_zeros(answered: InferenceResponse) -> None:
    expected_NMK = np.stack([PROBS_MK] * 3)
    expected_NMK[1, 2] = expected_NMK[2, 1] = 0
    np.testing.assert_array_equal(values(answered, "member_probabilities"), expected_NMK)
    assert values(answered, "members_used").tolist() == [3, 2, 2]


def test_an_answer_that_was_cut_short_has_an_empty_set(answered: InferenceResponse) -> None:
    in_set_NK = values(answered, "prediction_set")
    assert in_set_NK[:2].any(axis=1).all() and not in_set_NK[2].any()
    document = json.loads(encoded(None, [Requested("class")], answered).content)
    assert document["parameters"] == {"partial": True}


@pytest.mark.parametrize("name", [name for name, each in OUTPUTS.items() if each.needs is None])
def test_the_bytes_of_an_output_are_those_of_its_values(
    answered: InferenceResponse, name: str
) -> None:
    (tensor,) = tensors(answered, [Requested(name)])
    if tensor.datatype == "BYTES":
        assert tensor.raw() == b"".join(
            len(text).to_bytes(4, "little") + text.encode() for text in tensor.flat()
        )
    else:
        kind = {"FP32": "<f4", "INT32": "<i4", "BOOL": "?"}[tensor.datatype]
        np.testing.assert_allclose(np.frombuffer(tensor.raw(), kind), tensor.flat(), atol=1e-7)


def test_a_number_that_is_none_is_null_in_json(answered: InferenceResponse) -> None:
    broken = MemberOutputs(PROBS_MK * np.nan)
    strange = InferenceResponse(
        [with_summary(broken, answered.bundle)], PredictOptions(), Promised(), "a", "b",
        answered.bundle,
    )  # fmt: skip
    reply = encoded(None, [Requested("member_probabilities")], strange)
    assert json.loads(reply.content)["outputs"][0]["data"] == [None] * 9
