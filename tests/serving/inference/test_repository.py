"""What is found to be served: a bundle, or models and their versions."""

import errno
import os
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.errors import InvalidConfig, InvalidManifest
from snapensemble.contracts.files import sha256_of
from snapensemble.serving.inference.repository import Plan, order, plan
from tests.factories import make_bundle


def served(found: Plan) -> list[tuple[str, str]]:
    return [(each.name, each.version) for each in found.models]


def test_a_bundle_is_one_model_under_its_own_name_or_a_given_one(bundle_dir: Path) -> None:
    (model,) = plan(bundle_dir).models
    assert (model.name, model.version, model.members) == ("insects", "0badcafe", 3)
    assert model.sha256 == sha256_of((bundle_dir / "ensemble.json").read_bytes())
    assert served(plan(bundle_dir, name="bees")) == [("bees", "0badcafe")]


def test_folders_are_models_and_folders_in_them_versions(tmp_path: Path) -> None:
    make_bundle(tmp_path / "flat")
    for version in ("9", "10", "v2"):
        make_bundle(tmp_path / "deep" / version)
    (tmp_path / "notes").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "deep" / "readme.txt").write_text("none")
    assert served(plan(tmp_path)) == [("deep", "10"), ("flat", "0badcafe")]
    assert served(plan(tmp_path, versions=2))[:2] == [("deep", "10"), ("deep", "9")]
    assert served(plan(tmp_path, versions=9))[:3] == [("deep", v) for v in ("10", "9", "v2")]


def test_a_directory_of_models_takes_no_name_for_them(tmp_path: Path) -> None:
    make_bundle(tmp_path / "bees")
    with pytest.raises(InvalidConfig, match="--name wasps: .*called like its folders"):
        plan(tmp_path, name="wasps")


def test_what_is_wrong_with_one_model_does_not_hide_another(tmp_path: Path) -> None:
    make_bundle(tmp_path / "good")
    make_bundle(tmp_path / "bad")
    (tmp_path / "bad" / "ensemble.json").write_text("{}")
    make_bundle(tmp_path / "both" / "1")
    shutil.copy(tmp_path / "good" / "ensemble.json", tmp_path / "both")
    make_bundle(tmp_path / "été" / "1")
    found = plan(tmp_path)
    assert ("good", "0badcafe") in served(found)
    assert "format is None" in found.problems["bad"]
    assert "there is a bundle in it, and in folders below it" in found.problems["both"]
    assert "cannot be part of a path" in found.problems["été"]
    with pytest.raises(InvalidManifest):
        found.whole()
    assert served(found.without({"bad", "both", "été"}).whole()) == [("good", "0badcafe")]


def test_what_cannot_be_read_does_not_hide_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(tmp_path / "good")
    for name in ("closed", "half", "lost+found"):
        make_bundle(tmp_path / name / "2")
    (tmp_path / "link").symlink_to(tmp_path / "closed" / "2")
    closed = [tmp_path / "closed", tmp_path / "half" / "2", tmp_path / "lost+found"]
    read = Path.iterdir, Path.stat

    def refuse(path: Path) -> None:  # as the system does, unless it is root who asks
        place = Path(os.path.realpath(path))
        if any(each in (place, place.parent) for each in closed):
            raise PermissionError(errno.EACCES, "Permission denied")

    def iterdir(path: Path) -> Iterator[Path]:
        refuse(path)
        return read[0](path)

    def stat(path: Path, **how: Any) -> os.stat_result:
        if path not in closed:
            refuse(path)
        return read[1](path, **how)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    monkeypatch.setattr(Path, "stat", stat)
    found = plan(tmp_path)
    assert served(found) == [("good", "0badcafe")]
    assert list(found.problems) == ["closed", "half", "link"]
    assert all("cannot be read (Permission denied)" in why for why in found.problems.values())


def test_a_manifest_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    make_bundle(tmp_path / "good")
    os.truncate(make_bundle(tmp_path / "bad") / "ensemble.json", 2**30)
    tracemalloc.start()
    try:
        found, (_, peak) = plan(tmp_path), tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "refused unread" in found.problems["bad"] and peak < 2**26


@pytest.mark.parametrize("made", ["nothing", "a file", "an empty folder"])
def test_where_nothing_is_to_be_served_it_is_said_what_is_expected(
    tmp_path: Path, made: str
) -> None:
    root = tmp_path / "models"
    if made == "a file":
        root.write_text("text")
    elif made == "an empty folder":
        root.mkdir()
    with pytest.raises(InvalidManifest, match=r"expected (a bundle|ensemble\.json)"):
        plan(root)


def test_only_the_expected_manifest_is_planned(tmp_path: Path) -> None:
    make_bundle(tmp_path / "one")
    found = plan(tmp_path, expected_sha256=lambda _: "0" * 64)
    assert not found.models and "another bundle, or a changed one" in found.problems["one"]


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.sampled_from(["", "v", "run-"]))
def test_numbers_in_versions_are_compared_as_numbers(first: int, second: int, word: str) -> None:
    assert (order(f"{word}{first}") < order(f"{word}{second}")) == (first < second)


@given(st.lists(st.text(max_size=20), max_size=10, unique=True), st.randoms())
def test_any_versions_have_an_order(versions: list[str], random: Random) -> None:
    shuffled = random.sample(versions, len(versions))
    assert list(map(order, sorted(shuffled, key=order))) == sorted(map(order, versions))
