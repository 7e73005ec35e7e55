"""`?novelty` over HTTP: distances against a reference in float64.

Shapes: C features, H W height and width of images, K classes.
"""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from snapensemble.cli import main
from snapensemble.contracts.bundle import read_bundle, write_bundle
from snapensemble.contracts.errors import InvalidManifest
from snapensemble.contracts.novelty import NoveltyRecord, NoveltyThreshold
from snapensemble.contracts.pixels import decode_image
from snapensemble.serving.http.app import create_app
from snapensemble.serving.http.responses import prediction, promised
from snapensemble.serving.http.schemas import PredictOptions, PredictResponse
from snapensemble.serving.inference.engine import Limits, load_engine
from tests.explained import (
    CHANNELS,
    explained_member,
    explained_trunk,
    feature_maps_Chw,
    member_of_means,
    with_directions,
)
from tests.factories import CLASSES, CONTRACT, cascade_record, encoded, make_bundle, picture
from tests.fakes import client
from tests.serving.conftest import LIMITS
from tests.serving.http.test_http import HEADERS, is_problem

SETTINGS = LIMITS.model_copy(update={"max_images_per_request": 12})
PICTURES = [encoded(picture(seed, width=9, height=7)) for seed in range(12)]
RNG = np.random.default_rng(7)
DIRECTIONS_KC = np.abs(RNG.normal(size=(len(CLASSES), CHANNELS))).astype(np.float32)
DIRECTIONS_KC /= np.linalg.norm(DIRECTIONS_KC, axis=1, keepdims=True)


def expected(data: bytes) -> float:
    """The distance of a picture, by its first member's maps."""
    channels, height, width = CONTRACT.shape
    image_CHW = decode_image(data, channels=channels, height=height, width=width)
    means_C = feature_maps_Chw(image_CHW).mean(axis=(1, 2))
    cosines_K = DIRECTIONS_KC.astype(np.float64) @ means_C / np.linalg.norm(means_C)
    return float(1 - cosines_K.max())


DISTANCES = np.sort([expected(data) for data in PICTURES])
MIDDLE = float((DISTANCES[5] + DISTANCES[6]) / 2)
NOVELTY = NoveltyRecord(
    images=30,
    thresholds=(
        NoveltyThreshold(false_alarms=0.05, distance=float(DISTANCES[-1]) + 0.01),
        NoveltyThreshold(false_alarms=0.1, distance=MIDDLE),
    ),
)


def made(
    directory: Path, *, trunk: bool = False, directions_KC: NDArray[Any] | None = DIRECTIONS_KC
) -> Path:
    """Three members, of which the first knows what is novel, whole or behind a trunk."""
    members = [(member_of_means if trunk else explained_member)(seed) for seed in range(3)]
    if directions_KC is not None:
        members[0] = with_directions(members[0], directions_KC)
    shared: dict[str, Any] = {"trunk": explained_trunk(), "features": (CHANNELS,)} if trunk else {}
    cascade = cascade_record((0.0, 0.0), (0.6, 0.45))
    bundle_dir = make_bundle(directory, members, cascade=cascade, **shared)
    write_bundle(bundle_dir, read_bundle(bundle_dir).model_copy(update={"novelty": NOVELTY}))
    return bundle_dir


@asynccontextmanager
async def serving(bundle_dir: Path) -> AsyncIterator[httpx.AsyncClient]:
    with load_engine(bundle_dir, SETTINGS.limits()) as engine:
        async with client(create_app(SETTINGS, engine)) as http:
            yield http


async def ask(http: httpx.AsyncClient, **params: Any) -> list[dict[str, Any]]:
    files = [("image", (f"{place}.png", data)) for place, data in enumerate(PICTURES)]
    reply = await http.post("/predict", files=files, params=params)
    assert reply.status_code == 200, reply.text
    PredictResponse.model_validate(reply.json())
    return list(reply.json()["predictions"])


@pytest.mark.parametrize("trunk", [False, True])
@pytest.mark.parametrize("mode", ["full", "cascade"])
async def test_a_picture_is_novel_beyond_the_distance_of_the_share_that_is_asked_for(
    trunk: bool, mode: str, tmp_path: Path
) -> None:
    async with serving(made(tmp_path / "bundle", trunk=trunk)) as http:
        plain = await ask(http, mode=mode)
        answers = await ask(http, mode=mode, novelty=0.1)
        found = [answer.pop("novelty") for answer in answers]
        assert answers == plain
        for data, novelty in zip(PICTURES, found, strict=True):
            assert novelty["distance"] == pytest.approx(expected(data), abs=1e-5)
            assert novelty["novel"] is (expected(data) > MIDDLE)
            assert novelty["false_alarms"] == 0.1
        assert sum(novelty["novel"] for novelty in found) == 6
        # The largest share that is promised and is no larger.
        stricter = [one["novelty"] for one in await ask(http, mode=mode, novelty=0.07)]
        assert {one["false_alarms"] for one in stricter} == {0.05}
        assert not any(one["novel"] for one in stricter)


async def test_it_may_be_asked_for_together_with_maps(tmp_path: Path) -> None:
    async with serving(made(tmp_path / "bundle")) as http:
        for one in await ask(http, novelty=0.1, explain="true"):
            assert one["explanation"] and one["novelty"]["distance"] >= 0


async def test_a_share_that_is_not_promised_is_refused_with_those_that_are(
    tmp_path: Path, http: httpx.AsyncClient
) -> None:
    async with serving(made(tmp_path / "novel")) as novel:
        reply = await novel.post("/predict?novelty=0.01", content=PICTURES[0], headers=HEADERS)
        detail = is_problem(reply, 422, "invalid_parameter")
        assert "got 0.01" in detail and "from 30 images: 0.05 and 0.1" in detail
    reply = await http.post("/predict?novelty=0.1", content=PICTURES[0], headers=HEADERS)
    assert "--novelty" in is_problem(reply, 422, "invalid_parameter")
    for share in ("0", "1", "nan", "much"):
        reply = await http.post(f"/predict?novelty={share}", content=PICTURES[0], headers=HEADERS)
        assert "novelty" in is_problem(reply, 422, "invalid_parameter")


async def test_a_bundle_of_too_few_images_says_so(tmp_path: Path) -> None:
    bundle_dir = made(tmp_path / "novel")
    promises_nothing = NoveltyRecord(images=8, thresholds=())
    bundle = read_bundle(bundle_dir).model_copy(update={"novelty": promises_nothing})
    write_bundle(bundle_dir, bundle)
    async with serving(bundle_dir) as http:
        reply = await http.post("/predict?novelty=0.1", content=PICTURES[0], headers=HEADERS)
        assert "8 images are too few" in is_problem(reply, 422, "invalid_parameter")


@pytest.mark.parametrize("directions_KC", [None, DIRECTIONS_KC[:, :-1], DIRECTIONS_KC[:-1]])
def test_a_bundle_whose_first_member_does_not_know_what_is_novel_is_refused(
    directions_KC: NDArray[Any] | None, tmp_path: Path
) -> None:
    with pytest.raises(InvalidManifest, match="class_directions"):
        load_engine(made(tmp_path / "bundle", directions_KC=directions_KC))


def test_predict_says_which_pictures_are_unlike_those_that_taught(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle_dir, files = made(tmp_path / "bundle"), []
    for place, data in enumerate(PICTURES):
        files.append(tmp_path / f"{place}.png")
        files[-1].write_bytes(data)
    assert main(["predict", *map(str, files), "--bundle", str(bundle_dir), "--novelty", "0.1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = [line.endswith("unlike the pictures that taught") for line in lines]
    assert told == [expected(data) > MIDDLE for data in PICTURES]


class Gated:
    """ONNX Runtime's session of a member, which runs when its gate opens."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.gate = threading.Event()

    def run(self, *args: Any) -> Any:
        assert self.gate.wait(30)
        return self._session.run(*args)


@pytest.mark.parametrize(("slow", "is_known"), [(2, True), (0, False)])
def test_an_answer_that_is_cut_short_says_it_where_the_first_member_has_answered(
    slow: int, is_known: bool, tmp_path: Path
) -> None:
    with load_engine(made(tmp_path / "bundle"), Limits(threads=2)) as engine:
        member: Any = engine.scheduler._members[slow]
        gated = member._session = Gated(member._session)
        (answer,) = engine.submit(PICTURES[:1], asked=engine.asked((), 0.1))
        while (heard := answer.so_far()) is None or len(heard.probs_dK) < 2:
            pass
        outputs = answer.cut_short()
        gated.gate.set()
        assert outputs.partial_of is not None and slow not in outputs.partial_of
        options = PredictOptions(novelty=0.1)
        said = prediction(outputs, engine.bundle, options, promised(engine, "full", options))
        assert ("novelty" in said) is is_known
        if is_known:
            distance = said["novelty"]["distance"]
            assert distance == pytest.approx(expected(PICTURES[0]), abs=1e-5)
