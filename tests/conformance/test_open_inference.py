"""The Open Inference Protocol by the clients of Triton and KServe, unmodified."""

from typing import Any

import numpy as np

from tests.conformance.conftest import Run, Served

MODEL = "insects"


def is_expected(found: dict[str, Any], served: Served) -> None:
    """Refuse outputs that are not what /predict answers."""
    of = {
        "probabilities": [each["probabilities"] for each in served.expected],
        "member_probabilities": [
            [member["probabilities"] for member in each["members"]] for each in served.expected
        ],
        "entropy_nats": [each["uncertainty"]["entropy_nats"] for each in served.expected],
    }
    assert found["class"] == [each["class"] for each in served.expected]
    for name, expected in of.items():
        if name in found:
            np.testing.assert_allclose(found[name], expected, atol=1e-6, rtol=0)


def test_tritonclient_over_http_waiting_and_by_asyncio(served: Served, run: Run) -> None:
    found = run("triton_http", served.url, MODEL, *served.pictures)
    assert found["live"] == [True, True, True] and found["aio"]["live"]
    for each in (found["binary"], found["json"], found["aio"]["binary"]):
        is_expected(each, served)
    probs_NK = [each["probabilities"] for each in served.expected]
    np.testing.assert_allclose(found["usual"], probs_NK, atol=1e-6, rtol=0)
    assert found["id"] == "mine" and found["model"]["name"] == MODEL
    assert found["server"]["name"] == "snapensemble"
    assert [row[0].split(":")[2] for row in found["classified"]] == found["json"]["class"]
    status, message = found["refusal"]
    assert status == "404" and "There is no such model" in message


def test_tritonclient_over_grpc_waiting_and_by_asyncio(served: Served, run: Run) -> None:
    found = run("triton_grpc", served.grpc, MODEL, *served.pictures)
    assert found["live"] == [True, True, True] and found["aio"]["live"]
    for each in (found["binary"], found["aio"]["binary"]):
        is_expected(each, served)
    probs_NK = [each["probabilities"] for each in served.expected]
    np.testing.assert_allclose(found["usual"], probs_NK, atol=1e-6, rtol=0)
    assert found["id"] == "mine" and found["model"]["name"] == MODEL
    status, message = found["refusal"]
    assert status == "StatusCode.NOT_FOUND" and "There is no such model" in message
    has_the_fields_of(found["messages"])


def has_the_fields_of(published: dict[str, Any]) -> None:
    """Refuse messages whose names, numbers or types of fields are not those of the protocol."""
    from snapensemble.serving.grpc.messages import CLASSES, MESSAGES

    for name in MESSAGES:
        fields = {(f.number, f.name, f.type) for f in CLASSES[name].DESCRIPTOR.fields}
        beside = {(6, "properties", 11)} if name == "ModelMetadataResponse" else set()
        assert {tuple(each) for each in published[name]} == fields - beside, name


def test_kserve_over_http_and_grpc(served: Served, run: Run) -> None:
    found = run("kserve_both", served.url, served.grpc, MODEL, *served.pictures)
    assert found["live"] == [True] * 6
    for each in ("binary", "json", "grpc", "grpc typed"):
        is_expected(found[each], served)


def test_grpcs_own_health_checks(served: Served, run: Run) -> None:
    found = run("grpc_health", served.grpc, MODEL)
    assert found == {
        "": "SERVING",
        "inference.GRPCInferenceService": "SERVING",
        MODEL: "SERVING",
        "nobody": "NOT_FOUND",
        "watch": "UNIMPLEMENTED",
    }
