"""load() -> an ensemble that answers as the server and the command line do."""

import gc
import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import snapensemble
from snapensemble.cli import main
from snapensemble.contracts.errors import InvalidConfig, InvalidManifest
from snapensemble.evaluate import EvaluateConfig
from snapensemble.offline import PER_LANE, answers, own_engine
from snapensemble.predictions import Asked, AskedOfServer, Prediction
from snapensemble.server_process import server_process
from snapensemble.serving.errors import InvalidParameter
from snapensemble.serving.http import schemas
from snapensemble.serving.http.schemas import PredictOptions
from tests.explained import explained_member
from tests.factories import encoded, make_bundle, make_cascade_bundle, picture
from tests.forks import forked

PNG = encoded(picture(0))
ASKED: Asked = {
    "top": 2, "members": True, "coverage": 0.9, "abstain": 0.2, "mode": "cascade",
}  # fmt: skip


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_cascade_bundle(tmp_path / "bundle")


@pytest.fixture
def ensemble(bundle: Path) -> Iterator[snapensemble.Ensemble]:
    with snapensemble.load(bundle, threads=2) as ensemble:
        yield ensemble


def test_a_picture_has_one_answer_in_whatever_form_it_comes(
    ensemble: snapensemble.Ensemble, tmp_path: Path
) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(PNG)
    image = picture(0)
    forms: list[Any] = [
        file, str(file), PNG, bytearray(PNG), memoryview(PNG), image, Image.open(file),
        np.asarray(image),
    ]  # fmt: skip
    expected = ensemble.predict(file)
    for form in forms:
        assert ensemble.predict(form) == expected
    for found in ensemble.predict(forms):  # a batch may round in another way
        assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-6)


def test_the_answers_are_those_of_a_server_and_of_the_command_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / f"{seed}.png" for seed in range(5)]
    for seed, file in enumerate(files):
        file.write_bytes(encoded(picture(seed, width=9, height=7)))
    with snapensemble.load(bundle) as ensemble:
        here = ensemble.predict(files, **ASKED)
    with server_process(bundle, "--port", "0") as (_, url), snapensemble.Client(url) as client:
        there = client.predict(files, **ASKED)
    flags = ["--top", "2", "--coverage", "0.9", "--abstain", "0.2", "--mode", "cascade", "--json"]
    assert main(["predict", *map(str, files), "--bundle", str(bundle), *flags]) == 0
    printed = [Prediction.of(p) for p in json.loads(capsys.readouterr().out)["predictions"]]
    for one, two, three in zip(here, there, printed, strict=True):
        assert one.probabilities == pytest.approx(two.probabilities, abs=1e-6)
        assert one.probabilities == pytest.approx(three.probabilities, abs=1e-6)
        assert (one.class_name, one.prediction_set, one.abstain, one.members_used) == (
            two.class_name, two.prediction_set, two.abstain, two.members_used,
        )  # fmt: skip
        assert [member.name for member in one.members or ()] == [
            member.name for member in two.members or ()
        ]
        assert len(one.top) == 2


def test_what_was_not_asked_for_is_none(ensemble: snapensemble.Ensemble) -> None:
    found = ensemble.predict(PNG, probabilities=False, top=0)
    assert found.top == ()
    for name in ("probabilities", "members", "prediction_set", "abstain", "novelty"):
        assert getattr(found, name) is None
    assert found.explanation is None and not found.partial
    with pytest.raises(FrozenInstanceError):
        found.probability = 1.0  # type: ignore[misc]


def test_a_map_comes_as_a_picture(tmp_path: Path) -> None:
    bundle_dir = make_bundle(tmp_path / "maps", [explained_member(seed) for seed in range(2)])
    with snapensemble.load(bundle_dir) as ensemble:
        found = ensemble.predict(PNG, explain=True)
        named = ensemble.predict(PNG, explain=["bee", "ant"])
        (alone,) = ensemble.predict(PNG, explain="bee").explanation or ()
        assert ensemble.predict(PNG, explain=False).explanation is None
    assert found.explanation is not None and named.explanation is not None
    assert found.explanation[0].class_name == found.class_name
    assert found.explanation[0].png.startswith(b"\x89PNG")
    assert [each.class_name for each in named.explanation] == ["bee", "ant"]
    assert (alone.class_name, alone.png) == ("bee", named.explanation[0].png)


def test_an_answer_in_python_has_all_that_one_over_http_has() -> None:
    over_http = set(schemas.Prediction.model_fields) - {"class_", "uncertainty"}
    in_python = {each.name for each in fields(Prediction)} - {"class_name"}
    assert in_python == over_http | set(schemas.Uncertainty.model_fields)
    example = schemas.EXAMPLE["predictions"][0]  # type: ignore[index]
    assert asdict(Prediction.of({**example, "a later field": 1}))["class_name"] == "cat"


def test_the_parameters_are_those_of_a_request() -> None:
    assert set(AskedOfServer.__annotations__) == set(PredictOptions.model_fields)
    assert set(Asked.__annotations__) == set(PredictOptions.model_fields) - {"deadline_ms"}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"topp": 1}, "there is no topp"),
        ({"top": -1}, "top: expected a whole number, from 0 to 1000, got -1"),
        ({"coverage": 2}, "coverage: expected a number, above 0 and below 1, got 2"),
        ({"mode": "fast"}, "mode: expected one of full, cascade, got 'fast'"),
        ({"deadline_ms": 5}, "only a server keeps a deadline"),
        ({"explain": ["a"] * 6}, "explain: expected a list"),
    ],
)
def test_a_wrong_argument_is_named(
    ensemble: snapensemble.Ensemble, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidConfig, match=message):
        ensemble.predict(PNG, **asked)


def test_what_the_bundle_cannot_grant_is_said(bundle_dir: Path) -> None:
    with snapensemble.load(bundle_dir) as ensemble:
        with pytest.raises(InvalidParameter, match="carries no cascade"):
            ensemble.predict(PNG, mode="cascade")
        with pytest.raises(InvalidParameter, match="coverage: got 0.9"):
            ensemble.predict(PNG, coverage=0.9)


def test_the_first_bad_picture_is_named_and_the_ensemble_answers_on(
    ensemble: snapensemble.Ensemble, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("hello")
    pictures: list[Any] = [PNG, tmp_path / "text.png", tmp_path / "none.png"]
    with pytest.raises(snapensemble.BadPicture, match="text.png: not an image") as raised:
        ensemble.predict(pictures)
    assert raised.value.index == 1 and raised.value.name == str(tmp_path / "text.png")
    with pytest.raises(snapensemble.BadPicture, match="^picture 2: expected an array of uint8"):
        ensemble.predict([PNG, PNG, np.zeros((4, 4))])  # type: ignore[list-item]
    with pytest.raises(snapensemble.BadPicture, match="none.png: No such file"):
        ensemble.predict(tmp_path / "none.png")
    assert len(ensemble.predict([PNG])) == 1
    assert ensemble.predict([]) == []


def test_a_costly_picture_says_what_would_read_it(bundle: Path) -> None:
    from tests.attacks.pictures import bmp

    costly = bmp(3_000, 3_000, 1, 8, b"\0\1")
    with snapensemble.load(bundle) as ensemble, pytest.raises(snapensemble.BadPicture) as raised:
        ensemble.predict(costly)
    assert str(raised.value).endswith("; or give max_image_cost")


def test_no_more_pictures_are_read_than_keep_the_lanes_busy(bundle: Path) -> None:
    read: list[int] = []

    def pictures() -> Iterator[bytes]:
        for number in range(3 * PER_LANE):
            read.append(number)
            yield PNG

    with own_engine(bundle, threads=1) as engine:
        found = answers(engine, pictures(), PredictOptions())
        next(found)
        assert len(read) == PER_LANE
        found.close()  # type: ignore[attr-defined]


def test_threads_share_an_ensemble(ensemble: snapensemble.Ensemble) -> None:
    pictures = [encoded(picture(seed)) for seed in range(24)]
    expected = [ensemble.predict(each) for each in pictures]
    begin = threading.Barrier(8)

    def ask(start: int) -> list[Prediction]:
        begin.wait(30)
        return ensemble.predict(pictures[start:] + pictures[:start])

    with ThreadPoolExecutor(8) as pool:
        for start, found in enumerate(pool.map(ask, range(8))):
            for one, two in zip(found, expected[start:] + expected[:start], strict=True):
                assert one.probabilities == pytest.approx(two.probabilities, abs=1e-6)


def test_a_closed_ensemble_says_so(bundle: Path) -> None:
    ensemble = snapensemble.load(bundle)
    assert repr(ensemble) == "<Ensemble insects 0badcafe: 3 members, 3 classes>"
    ensemble.close()
    ensemble.close()
    with pytest.raises(InvalidConfig, match="is closed; load the bundle again"):
        ensemble.predict(PNG)
    with pytest.raises(InvalidConfig, match="is closed; load the bundle again"):
        ensemble.evaluate()


def test_an_ensemble_from_before_a_fork_says_so_and_does_not_wait_for_its_lanes(
    ensemble: snapensemble.Ensemble,
) -> None:
    def child() -> int:
        with pytest.raises(InvalidConfig, match="was loaded in another process; load it in this"):
            ensemble.predict(PNG)
        return 0

    with forked(child) as process:
        assert process.wait() == 0
    assert ensemble.predict(PNG)


def test_lanes_end_with_the_ensemble_that_nobody_knows_any_more(bundle: Path) -> None:
    ensemble = snapensemble.load(bundle)
    scheduler = ensemble._engine.scheduler
    del ensemble
    gc.collect()
    assert scheduler.closed


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"threads": 0}, InvalidConfig, "threads: expected a whole number, from 1 to 1024, got 0"),
        ({"threads": 10**9}, InvalidConfig, "threads: expected a whole number, from 1 to 1024"),
        ({"threads": 1.5}, InvalidConfig, "threads: expected a whole number, .*, got 1.5"),
        (
            {"max_image_cost": 0},
            InvalidConfig,
            "max_image_cost: expected a number, from 1",
        ),
        ({"max_image_cost": "much"}, InvalidConfig, "max_image_cost: expected a number"),
        ({"expect_bundle": 5}, InvalidConfig, "expect_bundle: expected a text, got 5"),
        ({"expect_bundle": "0" * 64}, InvalidManifest, "sha256"),
    ],
)
def test_a_wrong_argument_of_load_is_named(
    bundle: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        snapensemble.load(bundle, **arguments)


@pytest.mark.parametrize("place", [None, 5, [], object(), "a\0b"])
def test_what_is_no_path_is_no_bundle(place: Any) -> None:
    with pytest.raises(InvalidConfig, match="bundle: (expected a path, got|holds a NUL)"):
        snapensemble.load(place)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"explain": 5}, "explain: expected a list, each a text, got 5"),
        ({"explain": None}, "explain: expected a list, each a text, got None"),
        ({"top": "many"}, "top: expected a whole number"),
    ],
)
def test_what_cannot_be_asked_is_named(
    ensemble: snapensemble.Ensemble, asked: Any, message: str
) -> None:
    with pytest.raises(InvalidConfig, match=message):
        ensemble.predict(PNG, **asked)


def test_other_pictures_that_are_no_text_are_named(ensemble: snapensemble.Ensemble) -> None:
    with pytest.raises(InvalidConfig, match="unlike: expected a text, got 5"):
        ensemble.evaluate(unlike=5)  # type: ignore[arg-type]


def test_what_evaluate_needs_and_is_not_installed_is_told_as_of_the_other_functions(
    ensemble: snapensemble.Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "snapensemble.evaluate", None)
    with pytest.raises(ModuleNotFoundError) as raised:
        ensemble.evaluate()
    assert "snapensemble[train]" in raised.value.__notes__[0]


def test_a_directory_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest):
        snapensemble.load(tmp_path)


def test_evaluate_takes_what_the_command_takes() -> None:
    import inspect

    taken = list(inspect.signature(snapensemble.Ensemble.evaluate).parameters)[1:]
    # The point of the cascade is chosen where the bundle is loaded; a report is the directory's.
    assert taken == [
        name for name in EvaluateConfig.model_fields if name not in ("max_accuracy_drop", "report")
    ]


def test_evaluate_measures_what_the_command_measures(
    digits_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(digits_bundle), "--limit", "40", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    with snapensemble.load(digits_bundle) as ensemble:
        found = ensemble.evaluate(limit=40)
        with pytest.raises(InvalidConfig, match="split: expected one of test, val, train"):
            ensemble.evaluate(split="all")  # type: ignore[arg-type]
    assert found["ensemble"] == pytest.approx(expected["ensemble"])
    assert found["members"] == expected["members"]
