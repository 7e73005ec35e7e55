"""Cascades and prediction sets from the command line: the same numbers here and over HTTP."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from snapensemble.predict import describe, predict_with_bundle, predict_with_url
from snapensemble.server_process import server_process
from tests.factories import calibration_record, cascade_record, encoded, make_bundle, picture
from tests.forks import run

FILES = [Path(f"{seed}.png") for seed in range(12)]
PICTURES = [encoded(picture(seed)) for seed in range(12)]


@pytest.fixture(scope="module")
def cascade_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(
        tmp_path_factory.mktemp("cascade") / "bundle",
        cascade=cascade_record((0.0, 0.0), (0.4, 0.2), (None, None), sets=0.75),
        calibration=calibration_record(0.7),
    )


@pytest.fixture(scope="module")
def url(cascade_dir: Path) -> Iterator[str]:
    flags = ("--port", "0", "--mode", "cascade", "--max-accuracy-drop", "0.02")
    with server_process(cascade_dir, *flags) as (_, url):
        yield url


@pytest.mark.parametrize(
    "query",
    [{"mode": "full"}, {"mode": "cascade"}, {"mode": "cascade", "coverage": 0.9, "top": 2}],
)
def test_predict_gives_the_same_numbers_both_ways(
    url: str, cascade_dir: Path, query: dict[str, Any]
) -> None:
    here = predict_with_bundle(cascade_dir, FILES, PICTURES, **query)
    there = predict_with_url(url, FILES, PICTURES, **query)
    depths = [answer["members_used"] for answer in here["predictions"]]
    assert len(set(depths)) > 1 if query["mode"] == "cascade" else set(depths) == {3}
    for one, two in zip(here["predictions"], there["predictions"], strict=True):
        assert one.keys() == two.keys()
        np.testing.assert_allclose(one.pop("probabilities"), two.pop("probabilities"), atol=1e-6)
        for name in ("class", "members_used", "prediction_set"):
            assert one.get(name) == two.get(name)
        assert one["uncertainty"] == pytest.approx(two["uncertainty"], abs=1e-6)
        assert len(one["top"]) == len(two["top"]) == query.get("top", 3)


def test_a_server_in_cascade_mode_answers_so_unless_told_otherwise(
    url: str, cascade_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(PICTURES[0])
    one = json.loads(run("predict", tmp_path / "a.png", "--url", url, "--json").stdout)
    (expected,) = predict_with_bundle(cascade_dir, FILES[:1], PICTURES[:1], mode="cascade")[
        "predictions"
    ]
    assert one["predictions"][0]["members_used"] == expected["members_used"] < 3
    model = httpx.get(f"{url}/model").json()
    assert model["mode"] == "cascade" and model["cascade_point"]["accuracy_drop"] == 0.02


def test_predict_names_the_set(url: str, cascade_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PICTURES[0])
    flags = ("--mode", "full", "--coverage", "0.9")
    lines = {
        run("predict", tmp_path / "a.png", *source, *flags).stdout
        for source in (("--url", url), ("--bundle", cascade_dir))
    }
    (line,) = lines
    assert "(3 members, disagreement" in line and ")  90%: " in line


def test_a_line_without_a_set_ends_with_the_disagreement() -> None:
    answer = {"class": "bee", "top": [], "members_used": 1}
    answer["uncertainty"] = {"disagreement_nats": 0.0}
    assert describe(Path("a.png"), answer) == "a.png: bee  (1 member, disagreement 0.000 nats)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "{plain}", "--port", "0", "--mode", "cascade"], "carries no cascade; use mode"),
        (["serve", "{plain}", "--port", "0", "--max-accuracy-drop", "0"], "no cascade to pick"),
        (["serve", "{cascade}", "--max-accuracy-drop", "2"], "--max-accuracy-drop: expected"),
        (["serve", "{cascade}", "--mode", "fast"], "--mode: expected one of full, cascade, got"),
        (["predict", "{png}", "--bundle", "{plain}", "--mode", "cascade"], "snapensemble export"),
        (["predict", "{png}", "--bundle", "{plain}", "--coverage", "0.9"], "in mode full: none"),
        (["predict", "{png}", "--bundle", "{cascade}", "--coverage", "0.8"], "got 0.8; the bundle"),
        (
            ["predict", "{png}", "--bundle", "{cascade}", "--coverage", "2"],
            "--coverage: expected a",
        ),
        (["predict", "{png}", "--url", "{url}", "--coverage", "0.8"], "answered 422: coverage: "),
    ],
)
def test_what_a_bundle_cannot_give_is_explained(
    url: str, cascade_dir: Path, bundle_dir: Path, tmp_path: Path,
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    (tmp_path / "a.png").write_bytes(PICTURES[0])
    names = {"plain": bundle_dir, "cascade": cascade_dir, "png": tmp_path / "a.png", "url": url}
    found = run(*(argument.format(**names) for argument in arguments))
    assert found.returncode == 2, found.stderr
    assert message in found.stderr and "Traceback" not in found.stderr and found.stdout == ""
