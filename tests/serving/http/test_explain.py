"""`?explain` over HTTP: class activation maps against a reference in float64.

Shapes: d members asked, H W height and width of images.
"""

import asyncio
import base64
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from snapensemble.cli import main
from snapensemble.contracts.pixels import decode_image
from snapensemble.predict import predict_with_bundle
from snapensemble.serving.http.app import create_app
from snapensemble.serving.http.schemas import PredictResponse
from snapensemble.serving.inference.engine import Engine, load_engine
from snapensemble.serving.inference.explain import Asked, Explanation
from snapensemble.serving.settings import Settings
from tests.explained import (
    CHANNELS,
    enlarged,
    evidence_Khw,
    explained_member,
    explained_trunk,
    member_of_means,
    shown,
    without_maps,
)
from tests.factories import CLASSES, CONTRACT, cascade_record, encoded, make_bundle, picture
from tests.fakes import client
from tests.serving.conftest import LIMITS
from tests.serving.http.test_http import HEADERS, is_problem

WEIGHTS_M = [0.5, 0.3, 0.2]
PICTURES = [encoded(picture(seed, width=9, height=7)) for seed in range(12)]
CASCADE = cascade_record((0.0, 0.0), (None, 0.604))


def whole(directory: Path) -> Path:
    members = [explained_member(seed) for seed in range(3)]
    return make_bundle(directory, members, weights_M=WEIGHTS_M, temperature=1.7, cascade=CASCADE)


def behind_a_trunk(directory: Path) -> Path:
    return make_bundle(
        directory,
        [member_of_means(seed) for seed in range(3)],
        weights_M=WEIGHTS_M,
        temperature=1.7,
        cascade=CASCADE,
        trunk=explained_trunk(),
        features=(CHANNELS,),
    )


@asynccontextmanager
async def serving(
    bundle_dir: Path, settings: Settings = LIMITS
) -> AsyncIterator[httpx.AsyncClient]:
    with load_engine(bundle_dir, settings.limits()) as engine:
        async with client(create_app(settings, engine)) as http:
            yield http


class GatedPart:
    """A member that answers once its gate is open."""

    has_class_weights = True

    def __init__(self, engine: Engine, place: int) -> None:
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)
        member: Any = engine.scheduler._members[place]
        self._member = member
        self.evidence, self.distance = member.evidence, member.distance
        members = list(engine.scheduler._members)
        members[place] = self
        engine.scheduler._members = members

    def __call__(self, inputs_B: NDArray[Any]) -> Any:
        self.entered.release()
        assert self.gate.wait(30)
        return self._member(inputs_B)

    def with_maps(self, inputs_B: NDArray[Any]) -> Any:
        self(inputs_B)
        return self._member.with_maps(inputs_B)


def expected_HW(data: bytes, index: int, depth: int = 3) -> NDArray[np.float64]:
    """The mean over the members asked, each with its weight."""
    _, height, width = CONTRACT.shape
    image_CHW = decode_image(data, channels=3, height=height, width=width)
    weights_d = np.array(WEIGHTS_M[:depth]) / sum(WEIGHTS_M[:depth])
    evidence_dhw = np.stack([evidence_Khw(seed, image_CHW)[index] for seed in range(depth)])
    return enlarged(np.tensordot(weights_d, evidence_dhw, axes=1))


def check(explanation: dict[str, Any], data: bytes, depth: int = 3) -> None:
    """Compare a map with the expected one: half a step of grey apart at most."""
    wanted_HW, found_HW = expected_HW(data, explanation["index"], depth), shown(explanation)
    assert found_HW.shape == wanted_HW.shape == CONTRACT.shape[1:]
    assert explanation["class"] == CLASSES[explanation["index"]]
    assert explanation["low"] == pytest.approx(wanted_HW.min(), abs=1e-4)
    assert explanation["high"] == pytest.approx(wanted_HW.max(), abs=1e-4)
    step = (explanation["high"] - explanation["low"]) / 255
    np.testing.assert_allclose(found_HW, wanted_HW, atol=step / 2 + 1e-4)


async def ask(http: httpx.AsyncClient, data: bytes, **params: Any) -> dict[str, Any]:
    reply = await http.post("/predict", content=data, headers=HEADERS, params=params)
    assert reply.status_code == 200, reply.text
    PredictResponse.model_validate(reply.json())
    (answer,) = reply.json()["predictions"]
    return dict(answer)


@pytest.mark.parametrize("make", [whole, behind_a_trunk])
@pytest.mark.parametrize("mode", ["full", "cascade"])
async def test_the_map_of_the_predicted_class_is_the_mean_of_the_members_asked(
    make: Any, mode: str, tmp_path: Path
) -> None:
    depths = set()
    async with serving(make(tmp_path / "bundle")) as http:
        for data in PICTURES:
            answer = await ask(http, data, explain="true", mode=mode)
            (explanation,) = answer["explanation"]
            assert explanation["index"] == answer["index"]
            check(explanation, data, answer["members_used"])
            depths.add(answer["members_used"])
    assert depths == {3} if mode == "full" else len(depths) > 1


async def test_asked_classes_are_explained_in_the_order_of_the_request_and_each_once(
    tmp_path: Path,
) -> None:
    async with serving(whole(tmp_path / "bundle")) as http:
        answer = await ask(http, PICTURES[0], explain=["cow", "ant", "cow"])
        assert [each["class"] for each in answer["explanation"]] == ["cow", "ant"]
        both = await ask(http, PICTURES[0], explain=["bee", "true", "cow"])
        named = [each["class"] for each in both["explanation"]]
        assert named == list(dict.fromkeys([both["class"], "bee", "cow"]))
    for explanation in (*answer["explanation"], *both["explanation"]):
        check(explanation, PICTURES[0])


async def test_every_image_of_a_request_is_explained(tmp_path: Path) -> None:
    files = [("image", (f"{place}.png", PICTURES[place])) for place in range(4)]
    async with serving(whole(tmp_path / "bundle")) as http:
        reply = await http.post("/predict", files=files, params={"explain": "true"})
    for data, answer in zip(PICTURES, reply.json()["predictions"], strict=False):
        check(answer["explanation"][0], data)


@pytest.mark.parametrize("query", ["", "?explain=false"])
async def test_an_answer_that_is_not_explained_is_that_of_a_bundle_without_maps(
    query: str, tmp_path: Path
) -> None:
    before = make_bundle(
        tmp_path / "before",
        [without_maps(explained_member(seed)) for seed in range(3)],
        weights_M=WEIGHTS_M,
        temperature=1.7,
        cascade=CASCADE,
    )
    answers = []
    for directory in (whole(tmp_path / "now"), before):
        async with serving(directory) as http:
            reply = await http.post(f"/predict{query}", content=PICTURES[0], headers=HEADERS)
            answers.append(reply.content)
    assert answers[0] == answers[1] and b"explanation" not in answers[0]


async def test_images_that_ask_and_images_that_do_not_share_micro_batches(tmp_path: Path) -> None:
    one_lane = replace(LIMITS.limits(), threads=1)  # whoever waits comes into one micro-batch
    with load_engine(whole(tmp_path / "bundle"), one_lane) as engine:
        images = np.random.default_rng(3).integers(0, 256, (20, *CONTRACT.shape), dtype=np.uint8)
        alone = engine.ask(images)
        asked = Asked(engine.bundle, (1,))
        quiet, loud = engine.submit(list(images)), engine.submit(list(images), asked=asked)
        for place in range(len(images)):
            plain, explained = quiet[place].whole(), loud[place].whole()
            np.testing.assert_allclose(plain.probs_dK, alone[place], atol=1e-6)
            np.testing.assert_allclose(explained.probs_dK, alone[place], atol=1e-6)
            assert plain.explanation == () and len(explained.explanation) == 1


@pytest.mark.parametrize(
    ("explain", "words"),
    [
        (["ent"], ["'ent'", "'ant'"]),
        (["true", "0"], ["'0'", "'ant'"]),
        ([""], ["''"]),
        (["ant"] * 6, ["explain", "at most 5"]),
    ],
)
async def test_a_class_that_is_not_there_and_too_many_are_refused(
    explain: list[str], words: list[str], tmp_path: Path
) -> None:
    async with serving(whole(tmp_path / "bundle")) as http:
        reply = await http.post("/predict", content=PICTURES[0], params={"explain": explain})
    detail = is_problem(reply, 422, "invalid_parameter")
    assert all(word in detail for word in words), detail


async def test_a_bundle_says_whether_its_answers_can_be_explained_and_refuses_if_not(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    assert (await http.get("/model")).json()["explain"] is False
    for word in ("true", "ant", "nothing"):
        reply = await http.post(f"/predict?explain={word}", content=PICTURES[0], headers=HEADERS)
        assert "export" in is_problem(reply, 422, "not_explainable")
    mixed = [explained_member(0), without_maps(explained_member(1))]
    async with serving(make_bundle(tmp_path / "mixed", mixed)) as http:
        assert (await http.get("/model")).json()["explain"] is False
    async with serving(whole(tmp_path / "explained")) as http:
        assert (await http.get("/model")).json()["explain"] is True


async def test_maps_count_in_the_memory_of_requests_while_they_are_made(tmp_path: Path) -> None:
    with load_engine(whole(tmp_path / "bundle"), LIMITS.limits()) as engine:
        part = GatedPart(engine, 0)
        asked = Asked(engine.bundle, (1, 2))
        assert engine.maps is not None
        async with client(create_app(LIMITS, engine)) as http:
            held = []
            for params in ({}, {"explain": ["bee", "cow"]}):
                task = asyncio.create_task(ask_raw(http, params))
                await asyncio.to_thread(part.entered.acquire)
                held.append(engine.admission.memory.held)
                part.gate.set()
                assert (await task).status_code == 200
                part.gate.clear()
        assert held == [0, asked.max_bytes(engine.maps)]
        assert engine.admission.memory.held == 0


async def ask_raw(http: httpx.AsyncClient, params: dict[str, Any]) -> httpx.Response:
    return await http.post("/predict", content=PICTURES[0], headers=HEADERS, params=params)


@pytest.mark.parametrize(("taken", "status", "code"), [(0, 422, "invalid_parameter"), (1, 503, "")])
async def test_maps_beyond_the_memory_of_requests_are_refused(
    taken: int, status: int, code: str, tmp_path: Path
) -> None:
    files = [("image", (f"{place}.png", PICTURES[place])) for place in range(4)]
    with load_engine(whole(tmp_path / "bundle"), LIMITS.limits()) as engine:
        memory = engine.admission.memory
        assert engine.maps is not None
        needed = 4 * Asked(engine.bundle, (), predicted=True).max_bytes(engine.maps)
        memory.limit = needed - 1 + 10_000 * taken
        async with client(create_app(LIMITS, engine)) as http:
            memory.count(taken * 9_000)
            reply = await http.post("/predict", files=files, params={"explain": "true"})
            detail = is_problem(reply, status, code or "overloaded")
            assert f"{needed:,}" in detail
            memory.count(-taken * 9_000)
            one = await http.post("/predict", files=files[:1], params={"explain": "true"})
            assert one.status_code == 200, one.text
        assert memory.held == 0


async def test_an_answer_that_its_deadline_cut_short_has_no_map(tmp_path: Path) -> None:
    with load_engine(whole(tmp_path / "bundle"), LIMITS.limits()) as engine:
        late = GatedPart(engine, 2)
        async with client(create_app(LIMITS, engine)) as http:
            answer = await ask(http, PICTURES[0], explain="true", deadline_ms=200)
            late.gate.set()
    assert answer["partial"] is True and "explanation" not in answer


async def test_maps_are_made_on_a_lane_and_one_that_fails_hurts_no_other_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, make = [], Asked.explanations

    def noted(self: Asked, *args: Any) -> tuple[Explanation, ...]:
        threads.append(threading.current_thread().name)
        if self.predicted:
            raise MemoryError
        return make(self, *args)

    monkeypatch.setattr(Asked, "explanations", noted)
    async with serving(whole(tmp_path / "bundle")) as http:
        asks = [http.post("/predict", content=PICTURES[0], headers=HEADERS, params={"explain": e})
                for e in ("true", "ant", "bee")]  # fmt: skip
        first, *others = await asyncio.gather(*asks)
    is_problem(first, 500, "inference_failed")
    assert [reply.status_code for reply in others] == [200, 200]
    assert len(threads) == 3 and all(name.startswith("lane-") for name in threads)


def test_predict_writes_the_map_of_each_picture(tmp_path: Path) -> None:
    directory, files = whole(tmp_path / "bundle"), [tmp_path / "a.jpg", tmp_path / "b.png"]
    for file, data in zip(files, PICTURES, strict=False):
        file.write_bytes(data)
    maps_dir = tmp_path / "new" / "maps"
    paths = map(str, files)
    assert main(["predict", *paths, "--bundle", str(directory), "--explain", str(maps_dir)]) == 0
    assert sorted(file.name for file in maps_dir.iterdir()) == ["000-a.png", "001-b.png"]
    answer = predict_with_bundle(directory, files[:1], PICTURES[:1], explain=("true",))
    (explanation,) = answer["predictions"][0]["explanation"]
    check(explanation, PICTURES[0])
    assert (maps_dir / "000-a.png").read_bytes() == base64.b64decode(explanation["png"])
