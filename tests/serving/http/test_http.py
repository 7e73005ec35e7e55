import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from fastapi import FastAPI

from snapensemble.contracts.metrics import disagreement, entropy, mean_probabilities, softmax
from snapensemble.contracts.pixels import decode_image
from snapensemble.serving.http.app import create_app
from snapensemble.serving.http.schemas import PredictResponse, Problem
from snapensemble.serving.inference.engine import Engine, load_engine
from snapensemble.serving.settings import Settings
from tests.contracts.test_pixels import png_claiming
from tests.factories import CLASSES, CONTRACT, encoded, linear_logits, make_bundle, picture
from tests.fakes import GatedMember, LeavingClient, client, fail_members
from tests.serving.conftest import LIMITS

PNG = encoded(picture(1))
HEADERS = {"content-type": "image/png"}
NAMELESS = (  # a field, and a picture without the name of a file
    b'--x\r\nContent-Disposition: form-data; name="top"\r\n\r\nhello\r\n'
    b'--x\r\ncontent-type: Image/PNG; a=b\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
    + PNG
    + b"\r\n--x--\r\n"
)


def exact_MK(data: bytes) -> np.ndarray:
    """Each member's distribution, in float64 and without ONNX Runtime."""
    _, height, width = CONTRACT.shape
    image_CHW = decode_image(data, channels=3, height=height, width=width)
    return np.concatenate([softmax(linear_logits(seed, image_CHW[None])) for seed in range(3)])


def is_problem(reply: httpx.Response, status: int, code: str) -> str:
    """Check a problem document and give its detail."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate(reply.json())
    assert (problem.status, problem.code) == (status, code)
    assert "Traceback" not in reply.text and ".py" not in reply.text
    return problem.detail


async def test_the_answer_is_the_mean_of_the_members_softmaxes(http: httpx.AsyncClient) -> None:
    reply = await http.post("/predict", content=PNG, headers=HEADERS)
    assert reply.status_code == 200
    PredictResponse.model_validate(reply.json())
    (answer,) = reply.json()["predictions"]
    probs_MK = exact_MK(PNG)
    probs_K = mean_probabilities(probs_MK)
    np.testing.assert_allclose(answer["probabilities"], probs_K, atol=1e-4)
    assert sum(answer["probabilities"]) == pytest.approx(1)
    assert answer["index"] == probs_K.argmax() and answer["class"] == CLASSES[answer["index"]]
    assert answer["probability"] == max(answer["probabilities"]) == answer["top"][0]["probability"]
    assert [t["index"] for t in answer["top"]] == np.argsort(-probs_K).tolist()
    assert answer["members_used"] == 3
    uncertainty = answer["uncertainty"]
    assert uncertainty["entropy_nats"] == pytest.approx(float(entropy(probs_K)), abs=1e-4)
    assert uncertainty["disagreement_nats"] == pytest.approx(
        float(disagreement(probs_MK)), abs=1e-4
    )
    assert reply.json()["model"] == {"name": "insects", "version": "0badcafe"}


async def test_all_body_forms_give_the_same_answer(http: httpx.AsyncClient) -> None:
    octets = {"content-type": "application/octet-stream"}
    boundary = {"content-type": "multipart/form-data; boundary=x"}
    text = base64.b64encode(PNG).decode()
    replies = [
        await http.post("/predict", content=PNG, headers=HEADERS),
        await http.post("/predict", content=PNG, headers=octets),
        await http.post("/predict", content=PNG),  # no media type at all
        await http.post("/predict", content=PNG, headers={"content-type": ""}),
        await http.post("/predict", files={"anything": ("a.png", PNG)}),
        await http.post("/predict", json={"images": [text]}),
        await http.post("/predict", json={"images": [f"data:image/png;base64,{text}"]}),
        await http.post("/predict", json={"images": [base64.encodebytes(PNG).decode()]}),
        await http.post("/predict", content=NAMELESS, headers=boundary),
    ]
    assert len({reply.text for reply in replies}) == 1
    assert replies[0].status_code == 200


async def test_several_images_are_answered_in_their_order(http: httpx.AsyncClient) -> None:
    pictures = [encoded(picture(seed)) for seed in range(4)]
    singles = [
        (await http.post("/predict", content=data, headers=HEADERS)).json() for data in pictures
    ]
    form = await http.post("/predict", files=[("f", ("x.png", data)) for data in pictures])
    texts = [base64.b64encode(data).decode() for data in pictures]
    document = await http.post("/predict", json={"images": texts})
    for reply in (form, document):
        for one, single in zip(reply.json()["predictions"], singles, strict=True):
            (alone,) = single["predictions"]
            np.testing.assert_allclose(one["probabilities"], alone["probabilities"], atol=1e-6)


async def test_the_query_shapes_the_answer(http: httpx.AsyncClient) -> None:
    url = "/predict?top=1&members=true&probabilities=false"
    (answer,) = (await http.post(url, content=PNG, headers=HEADERS)).json()["predictions"]
    assert len(answer["top"]) == 1 and "probabilities" not in answer
    assert [m["name"] for m in answer["members"]] == ["cycle-00", "cycle-01", "cycle-02"]
    np.testing.assert_allclose(
        [m["probabilities"] for m in answer["members"]], exact_MK(PNG), atol=1e-4
    )
    (bare,) = (await http.post("/predict?top=0", content=PNG)).json()["predictions"]
    assert bare["top"] == [] and bare["class"] == answer["class"]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("top=-1", "top"),
        ("top=many", "top"),
        ("members=perhaps", "members"),
        ("mode=fast", "mode"),
        ("mode=cascade", "no cascade"),
        ("deadline_ms=0", "deadline_ms"),
        ("tpo=3", "tpo"),
    ],
)
async def test_a_wrong_parameter_is_named(http: httpx.AsyncClient, query: str, name: str) -> None:
    reply = await http.post(f"/predict?{query}", content=PNG, headers=HEADERS)
    assert name in is_problem(reply, 422, "invalid_parameter")


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b"", "image/png", 400, "empty_body"),
        (b"", "application/json", 400, "empty_body"),
        (b"I am text", "image/png", 422, "invalid_image"),
        (PNG[: len(PNG) // 2], "image/png", 422, "invalid_image"),
        (PNG, "text/plain", 415, "unsupported_media_type"),
        (PNG, "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b"{", "application/json", 400, "malformed_body"),
        (b"[]", "application/json", 400, "malformed_body"),
        (b'{"images": []}', "application/json", 400, "malformed_body"),
        (b'{"images": [1]}', "application/json", 400, "malformed_body"),
        (b'{"images": ["%%"]}', "application/json", 400, "malformed_body"),
        (b'{"images": [""]}', "application/json", 422, "invalid_image"),
        (b'{"images": ["aGk="], "x": 1}', "application/json", 400, "malformed_body"),
        (b'{"images": ["\xff"]}', "application/json", 400, "malformed_body"),
        (b"--x", "multipart/form-data", 400, "malformed_body"),
        (b"garbage", "multipart/form-data; boundary=x", 400, "malformed_body"),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 400, "empty_body"),
        (png_claiming(10_000, 6_000), "image/png", 413, "image_too_large"),
        (png_claiming(2**31 - 1, 2**31 - 1), "image/png", 413, "image_too_large"),
        (b"x" * 100_001, "image/png", 413, "body_too_large"),
        (json.dumps({"images": ["aGk="] * 5}).encode(), "application/json", 413, "too_many_images"),
    ],
)
async def test_a_body_that_is_not_right_is_a_problem_of_the_sender(
    http: httpx.AsyncClient, content: bytes, content_type: str, status: int, code: str
) -> None:
    reply = await http.post("/predict", content=content, headers={"content-type": content_type})
    assert is_problem(reply, status, code)
    after = await http.post("/predict", content=PNG, headers=HEADERS)
    assert after.status_code == 200


async def test_a_form_with_too_many_files_is_refused(http: httpx.AsyncClient) -> None:
    reply = await http.post("/predict", files=[("f", ("x.png", PNG))] * 5)
    is_problem(reply, 413, "too_many_images")


@pytest.mark.parametrize("kind", ["", "Content-Type: text/plain\r\n", "X-A: image/png\r\n"])
async def test_a_form_without_a_file_says_how_to_send_one(
    http: httpx.AsyncClient, kind: str
) -> None:
    boundary = {"content-type": "multipart/form-data; boundary=x"}
    head = f'Content-Disposition: form-data; name="image"\r\n{kind}'
    body = f"--x\r\n{head}\r\nhello\r\n--x--\r\n".encode()
    reply = await http.post("/predict", content=body, headers=boundary)
    assert 'curl -F "image=@cat.jpg"' in is_problem(reply, 400, "empty_body")


async def test_a_bad_image_among_several_is_named(http: httpx.AsyncClient) -> None:
    files = [("f", ("a.png", PNG)), ("f", ("b.png", b"oops")), ("f", ("c.png", PNG))]
    detail = is_problem(await http.post("/predict", files=files), 422, "invalid_image")
    assert detail.startswith("image 1 of 3 (counted from 0)")


async def test_one_bad_upload_among_good_ones_hurts_nobody(http: httpx.AsyncClient) -> None:
    good = [encoded(picture(seed)) for seed in range(12)]
    bad = [
        b"text",
        b"",
        PNG[:40],
        png_claiming(10_000, 6_000),
        b"x" * 200_000,
        b"\x89PNG\r\n\x1a\n",
    ]
    bodies = [body for pair in zip(good, bad * 2, strict=True) for body in pair]
    replies = await asyncio.gather(
        *(http.post("/predict", content=body, headers=HEADERS) for body in bodies)
    )
    for body, reply in zip(bodies, replies, strict=True):
        if body in good:
            (answer,) = reply.json()["predictions"]
            expected_K = mean_probabilities(exact_MK(body))
            np.testing.assert_allclose(answer["probabilities"], expected_K, atol=1e-4)
        else:
            assert 400 <= reply.status_code < 500


async def test_a_body_without_an_end_is_refused_while_it_arrives(
    http: httpx.AsyncClient, app: FastAPI
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 10_000
            yield b"x" * 10_000

    reply = await http.post("/predict", content=endless(), headers=HEADERS)
    is_problem(reply, 413, "body_too_large")
    assert reply.headers["connection"] == "close"
    assert sent <= 170_000
    assert app.state.service.model().admission.memory.held == 0


async def test_a_sender_that_is_too_slow_is_told_so(http: httpx.AsyncClient) -> None:
    never = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield PNG[:10]
        await never.wait()

    reply = await http.post("/predict", content=stalled(), headers=HEADERS)
    is_problem(reply, 408, "body_timeout")


async def test_all_bodies_together_are_limited(http: httpx.AsyncClient, app: FastAPI) -> None:
    app.state.service.model().admission.memory.hold(LIMITS.max_bytes_in_flight - 10)
    reply = await http.post("/predict", content=PNG, headers=HEADERS)
    is_problem(reply, 503, "overloaded")
    app.state.service.model().admission.memory.let_go(LIMITS.max_bytes_in_flight - 10)


async def test_overload_says_when_to_come_back(
    http: httpx.AsyncClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(engine.scheduler), "predicted_wait_s", LIMITS.max_wait_ms / 1000 + 2.3)
    reply = await http.post("/predict", content=PNG, headers=HEADERS)
    is_problem(reply, 503, "overloaded")
    assert reply.headers["retry-after"] == "3"
    assert (await http.get("/health/live")).status_code == 200


@pytest_asyncio.fixture
async def gate(engine: Engine) -> AsyncIterator[GatedMember]:
    """Every lane is busy until the gate opens: what comes next must wait."""
    member = GatedMember(is_open=False)
    engine.scheduler._members = [member, GatedMember(), GatedMember()]
    for _ in range(engine.scheduler.threads):
        engine.submit([np.zeros(CONTRACT.shape, np.uint8)])
        assert member.entered.acquire(timeout=30)
    yield member
    member.gate.set()


def run_after(gate: GatedMember, engine: Engine, count: int) -> int:
    """Open the gate, run `count` more images alone, and say how many ran besides those."""
    before = engine.scheduler.threads
    gate.gate.set()
    for value in range(count):
        engine.submit([np.full(CONTRACT.shape, value, np.uint8)])[0].result(30)
    return sum(gate.batches) - before - count


async def test_a_deadline_that_passes_is_a_504_and_the_image_is_not_run(
    http: httpx.AsyncClient, engine: Engine, gate: GatedMember
) -> None:
    reply = await http.post("/predict?deadline_ms=50", content=PNG, headers=HEADERS)
    is_problem(reply, 504, "deadline_exceeded")
    assert run_after(gate, engine, 5) == 0


async def test_a_deadline_counts_from_arrival(http: httpx.AsyncClient) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield PNG[:10]
        await asyncio.sleep(0.2)  # a slow sender is what this is about
        yield PNG[10:]

    reply = await http.post("/predict?deadline_ms=100", content=slow(), headers=HEADERS)
    is_problem(reply, 504, "deadline_exceeded")


async def test_a_client_that_leaves_takes_its_image_out_of_the_queue(
    app: FastAPI, engine: Engine, gate: GatedMember
) -> None:
    leaving = LeavingClient(app, PNG)
    request = asyncio.create_task(leaving.run())
    while engine.scheduler.queued == 0:
        await asyncio.sleep(0)
    leaving.leave.set()
    await request
    assert run_after(gate, engine, 5) == 0
    assert app.state.service.model().admission.memory.held == 0
    page = app.state.metrics.page().decode()
    assert "snapensemble_departed_clients_total 1.0" in page


async def test_overload_is_refused_before_anything_is_decoded(
    http: httpx.AsyncClient, engine: Engine, gate: GatedMember
) -> None:
    engine.submit([np.zeros(CONTRACT.shape, np.uint8)] * 50)
    reply = await http.post("/predict", content=b"no picture", headers=HEADERS)
    is_problem(reply, 503, "overloaded")


async def test_overload_is_refused_before_the_body_is_read(
    app: FastAPI, engine: Engine, gate: GatedMember
) -> None:
    engine.submit([np.zeros(CONTRACT.shape, np.uint8)] * 50)

    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("the body was asked for")
        yield b""

    async with client(app) as http:
        reply = await http.post("/predict", content=body(), headers=HEADERS)
    is_problem(reply, 503, "overloaded")


async def test_images_that_the_lanes_have_answered_count_until_their_clients_are(
    app: FastAPI, http: httpx.AsyncClient
) -> None:
    with app.state.service.model().admission.request() as others:
        others.hold(50 * len(PNG))
        others.accept([PNG] * 50)
        reply = await http.post("/predict", content=PNG, headers=HEADERS)
        is_problem(reply, 503, "overloaded")
        assert "50 images are under way" in reply.json()["detail"]
    assert (await http.post("/predict", content=PNG, headers=HEADERS)).status_code == 200


async def test_a_deadline_that_cannot_be_kept_is_refused_at_once(
    http: httpx.AsyncClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(engine.scheduler), "predicted_wait_s", 2.0)
    reply = await http.post("/predict?deadline_ms=500", content=PNG, headers=HEADERS)
    is_problem(reply, 503, "overloaded")
    assert "would be 2.0 s, at most 0.5 s" in reply.json()["detail"]
    assert reply.headers["retry-after"] == "2"
    assert (await http.post("/predict?deadline_ms=5000", content=PNG)).status_code == 200


async def test_weights_and_temperature_of_the_bundle_shape_the_answer(tmp_path: Path) -> None:
    weights_M, temperature = [0.7, 0.2, 0.1], 2.0
    bundle_dir = make_bundle(tmp_path / "b", weights_M=weights_M, temperature=temperature)
    with load_engine(bundle_dir) as engine:
        async with client(create_app(Settings(), engine)) as http:
            reply = await http.post("/predict", content=PNG, headers=HEADERS)
    pooled_K = np.average(exact_MK(PNG), axis=0, weights=weights_M)
    tempered_K = pooled_K ** (1 / temperature)
    (answer,) = reply.json()["predictions"]
    np.testing.assert_allclose(answer["probabilities"], tempered_K / tempered_K.sum(), atol=1e-4)


async def test_a_form_that_ends_too_early_is_refused(http: httpx.AsyncClient) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n'
    part = head + PNG + b"\r\n"
    boundary = {"content-type": "multipart/form-data; boundary=x"}
    whole = await http.post("/predict", content=part * 2 + b"--x--\r\n", headers=boundary)
    assert len(whole.json()["predictions"]) == 2
    for cut in (part * 2, part + part[:-10], part[:-10]):
        reply = await http.post("/predict", content=cut, headers=boundary)
        assert "closing boundary" in is_problem(reply, 400, "malformed_body")


@pytest.mark.parametrize("charset", ["punycode", "idna", "utf-16", "undefined", "none"])
async def test_a_form_in_an_odd_charset_is_refused(http: httpx.AsyncClient, charset: str) -> None:
    # A megabyte of punycode takes Python minutes, names that it does not know are kept for good.
    field = b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\na-' + b"b" * 90_000 + b"\r\n"
    headers = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
    reply = await http.post("/predict", content=field + b"--x--\r\n", headers=headers)
    assert "expected utf-8" in is_problem(reply, 400, "malformed_body")


@pytest.mark.parametrize("charset", ["UTF8", "us-ascii", "ISO-8859-1"])
async def test_a_form_may_name_a_plain_charset(http: httpx.AsyncClient, charset: str) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n' + PNG
    headers = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
    reply = await http.post("/predict", content=part + b"\r\n--x--\r\n", headers=headers)
    assert reply.status_code == 200


@pytest.mark.parametrize(
    "text",
    [
        b"{" + b'"k":1,' * 20 + b'"images":["aGk="]}',
        b'{"images":' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"images":{"a":1}}',
        b'{"images":[null]}',
        b'{"images":[NaN]}',
        b"nul",
    ],
)
async def test_json_of_another_shape_is_refused(http: httpx.AsyncClient, text: bytes) -> None:
    headers = {"content-type": "application/json"}
    is_problem(await http.post("/predict", content=text, headers=headers), 400, "malformed_body")


async def test_a_message_does_not_repeat_all_that_was_sent(http: httpx.AsyncClient) -> None:
    reply = await http.post("/predict", content=PNG, headers={"content-type": "x" * 50_000})
    assert len(is_problem(reply, 415, "unsupported_media_type")) <= 501


async def test_a_picture_of_many_scans_is_refused(http: httpx.AsyncClient) -> None:
    data = encoded(picture(0, width=64, height=64), "JPEG", progressive=True)
    scan = data.index(b"\xff\xda")
    costly = data[:scan] + data[scan : scan + 14] * 101 + data[scan:]
    detail = is_problem(await http.post("/predict", content=costly), 422, "image_too_costly")
    assert "scans, at most 100" in detail


async def test_a_failing_member_is_a_500_without_its_secrets(
    http: httpx.AsyncClient, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    fail_members(engine, RuntimeError("/secret/path"))
    reply = await http.post("/predict", content=PNG, headers=HEADERS)
    assert "secret" not in is_problem(reply, 500, "inference_failed")
    assert "/secret/path" in caplog.text


async def test_a_defect_is_a_500_without_a_stack_trace(
    http: httpx.AsyncClient, engine: Engine, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(engine.scheduler, "submit", broken)
    reply = await http.post("/predict", content=PNG, headers=HEADERS)
    assert "oops" not in is_problem(reply, 500, "internal_error")
    assert "ZeroDivisionError" in caplog.text


async def test_unknown_paths_and_methods_are_problems_too(http: httpx.AsyncClient) -> None:
    assert "GET /nope" in is_problem(await http.get("/nope"), 404, "not_found")
    is_problem(await http.get("/predict/"), 404, "not_found")
    reply = await http.get("/predict")
    is_problem(reply, 405, "method_not_allowed")
    assert reply.headers["allow"] == "POST"


async def test_probes_answer(http: httpx.AsyncClient) -> None:
    assert (await http.get("/health/live")).json() == {"live": True}
    assert (await http.get("/health/ready")).json() == {"ready": True}
    assert (await http.head("/health/ready")).status_code == 200


async def test_model_tells_what_is_served_and_how_good_it_is(http: httpx.AsyncClient) -> None:
    model = (await http.get("/model")).json()
    assert model["name"] == "insects" and model["classes"] == list(CLASSES)
    assert model["val"] == {"nll": 0.4, "accuracy": 0.95, "macro_accuracy": 0.9}
    assert [member["weight"] for member in model["members"]] == [1 / 3] * 3
    assert set(map(tuple, model["providers"].values())) == {("CPUExecutionProvider",)}
    assert list(model["providers"]) == ["cycle-00", "cycle-01", "cycle-02"]
    assert "spec" not in model["data"]  # where the training images lie is nobody's business


async def test_metrics_count_what_happened(http: httpx.AsyncClient) -> None:
    await http.post("/predict", content=PNG, headers=HEADERS)
    await http.post("/predict", content=b"text", headers=HEADERS)
    await http.get("/some/path/1")
    await http.get("/some/path/2")
    lines = (await http.get("/metrics")).text.splitlines()
    for line in (
        'snapensemble_requests_total{code="200",route="/predict"} 1.0',
        'snapensemble_requests_total{code="422",route="/predict"} 1.0',
        'snapensemble_requests_total{code="404",route="other"} 2.0',
        'snapensemble_problems_total{code="invalid_image"} 1.0',
        'snapensemble_model_info{members="3",name="insects",version="0badcafe"} 1.0',
    ):
        assert line in lines


async def test_metrics_tell_how_sure_answers_were(http: httpx.AsyncClient) -> None:
    await http.post("/predict", files=[("f", ("x.png", PNG))] * 2)
    lines = (await http.get("/metrics")).text.splitlines()
    assert "snapensemble_entropy_ratio_count 2.0" in lines
    (total,) = (line for line in lines if line.startswith("snapensemble_entropy_ratio_sum"))
    share = float(entropy(mean_probabilities(exact_MK(PNG)))) / np.log(len(CLASSES))
    assert float(total.split()[1]) == pytest.approx(2 * share, abs=1e-4)


async def test_the_page_loads_nothing_from_elsewhere(http: httpx.AsyncClient) -> None:
    reply = await http.get("/")
    assert reply.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert "http://" not in reply.text and "https://" not in reply.text
