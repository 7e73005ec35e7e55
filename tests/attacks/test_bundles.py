"""Bundles from strangers: no file waits, grows, leads elsewhere, or makes what is no number."""

import contextlib
import json
import os
import socket
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.cli import main
from snapensemble.contracts.bundle import BUNDLE_FILE, BundleManifest, read_bundle
from snapensemble.contracts.errors import InvalidManifest
from snapensemble.contracts.files import MAX_FILE_BYTES, sha256_of
from snapensemble.contracts.metrics import softmax
from snapensemble.predict import predict_with_bundle
from snapensemble.serving.http.responses import prediction
from snapensemble.serving.http.schemas import PredictOptions
from snapensemble.serving.inference.engine import load_engine
from snapensemble.serving.inference.request import MemberOutputs
from tests.contracts.protobuf.test_onnx_files import PLACES
from tests.contracts.test_manifest import change
from tests.factories import (
    calibration_record,
    cascade_record,
    encoded,
    linear_member,
    make_bundle,
    picture,
)
from tests.forks import run

MEMBER = "members/cycle-01.onnx"


def as_fifo(path: Path) -> None:
    os.mkfifo(path)


def as_endless_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def as_directory(path: Path) -> None:
    path.mkdir()


def as_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.getcwd()
        os.chdir(path.parent)  # a socket's path has 107 bytes at most
        try:
            listener.bind(path.name)
        finally:
            os.chdir(before)


def as_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def as_link_to_a_fifo(path: Path) -> None:
    os.mkfifo(path.parent / "other")
    path.symlink_to("other")


def as_hole_of_a_terabyte(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


SPECIAL: list[Callable[[Path], None]] = [
    as_fifo,
    as_endless_device,
    as_directory,
    as_socket,
    as_link_to_itself,
    as_link_to_a_fifo,
    as_hole_of_a_terabyte,
]


@contextlib.contextmanager
def most_bytes(limit: int) -> Iterator[None]:
    """What is done inside takes no more memory than this at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("file", [MEMBER, BUNDLE_FILE])
@pytest.mark.parametrize("special", SPECIAL, ids=lambda special: special.__name__)
def test_a_file_that_is_none_is_refused_without_waiting_or_reading(
    bundle_dir: Path, special: Callable[[Path], None], file: str
) -> None:
    (bundle_dir / file).unlink()
    special(bundle_dir / file)
    with most_bytes(10_000_000), pytest.raises(InvalidManifest, match=Path(file).name):
        load_engine(bundle_dir)


def test_a_member_larger_than_the_manifest_says_is_not_read(bundle_dir: Path) -> None:
    data = (bundle_dir / MEMBER).read_bytes()
    change(bundle_dir, "members", 1, "size", to=len(data) - 1)
    with pytest.raises(InvalidManifest, match="expected at most .* refused unread"):
        load_engine(bundle_dir)
    change(bundle_dir, "members", 1, "size", to=len(data))
    with load_engine(bundle_dir):
        pass


@pytest.mark.parametrize("size", [-1, MAX_FILE_BYTES + 1, 1.5, "1"])
def test_a_size_is_one(bundle_dir: Path, size: Any) -> None:
    change(bundle_dir, "members", 0, "size", to=size)
    with pytest.raises(InvalidManifest, match=r"members\.0\.size"):
        read_bundle(bundle_dir)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_member_that_names_another_file_is_neither_served_nor_asked(
    tmp_path: Path, place: Callable[[], Any]
) -> None:
    bundle_dir = make_bundle(tmp_path / "bundle", [place().SerializeToString(), linear_member(1)])
    with pytest.raises(InvalidManifest, match=r"cycle-00\.onnx: cannot load: it has"):
        load_engine(bundle_dir)
    with pytest.raises(InvalidManifest, match="cannot load: it has"):
        predict_with_bundle(bundle_dir, [Path("x.png")], [encoded(picture())])


@pytest.mark.parametrize("command", ["serve", "evaluate", "bench"])
def test_no_command_opens_a_member_that_names_another_file(tmp_path: Path, command: str) -> None:
    bundle_dir = make_bundle(tmp_path / "bundle", [PLACES[0]().SerializeToString()])
    found = run(command, bundle_dir)
    assert found.returncode == 2 and found.stdout == ""
    assert "cycle-00.onnx: cannot load: it has weights in another file" in found.stderr


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        '{"format": "snapshot-bundle", "x": ' + "[" * 90_000 + "]" * 90_000 + "}",
        '{"x": [' + "[]," * 2_000_000 + "0]}",
        '{"format_version": 1' + "0" * 100_000 + "}",
        '"' + "a" * (9 * 2**20) + '"',
        "\x00" * 1_000,
        "NaN",
    ],
    ids=["deep", "deep-inside", "wide", "digits", "long", "zeros", "nan"],
)
def test_json_that_costs_is_refused_before_it_does(bundle_dir: Path, text: str) -> None:
    (bundle_dir / BUNDLE_FILE).write_text(text)
    with most_bytes(50_000_000), pytest.raises(InvalidManifest):
        read_bundle(bundle_dir)


@pytest.mark.parametrize(
    "classes",
    [[str(k) for k in range(100_001)], ["a", "b" * 1_001]],
    ids=["too-many", "too-long"],
)
def test_classes_are_bounded(bundle_dir: Path, classes: list[str]) -> None:
    change(bundle_dir, "classes", to=classes)
    with pytest.raises(InvalidManifest, match="classes"):
        read_bundle(bundle_dir)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("temperature",), 5e-324),
        (("temperature",), 1e-3),
        (("temperature",), 1e300),
        (("temperature",), float("nan")),
        (("temperature",), float("inf")),
        (("cascade", "temperatures"), [5e-324, 1.0]),
        (("cascade", "points", 0, "thresholds"), [float("nan"), 0.5]),
        (("cascade", "points", 0, "thresholds"), [float("inf"), 0.5]),
        (("cascade", "points", 0, "nll_rise"), float("nan")),
        (("cascade", "rule"), "interval"),  # with a threshold after the first member
        (("calibration", "sets", 0, "quantile"), float("nan")),
        (("calibration", "sets", 0, "quantile"), 1.5),
        (("image", "mean"), [float("nan"), 0.5, 0.5]),
        (("val", "nll"), float("inf")),
        (("parity", "max_logit_difference"), float("inf")),
    ],
)
def test_numbers_that_make_no_numbers_are_refused(
    tmp_path: Path, path: tuple[str | int, ...], value: Any
) -> None:
    bundle_dir = make_bundle(
        tmp_path / "bundle",
        cascade=cascade_record((0.8, 0.5)),
        calibration=calibration_record(0.6),
    )
    read_bundle(bundle_dir)
    change(bundle_dir, *path, to=value)
    with pytest.raises(InvalidManifest):
        read_bundle(bundle_dir)


@pytest.mark.parametrize("weights", [[5e-324, 0.5, 0.5], [1e-9, 0.5, 0.5 - 1e-9], [0.5, 0.5, 0.0]])
def test_weights_that_vanish_are_refused(bundle_dir: Path, weights: list[float]) -> None:
    for place, weight in enumerate(weights):
        change(bundle_dir, "members", place, "weight", to=weight)
    with pytest.raises(InvalidManifest, match="weight"):
        read_bundle(bundle_dir)


temperatures = st.floats(0.01, 100) | st.floats(5e-324, 1e308)
logits = st.floats(-(2.0**120), 2.0**120, width=32)


@given(data=st.data())
def test_whatever_a_manifest_that_is_accepted_says_answers_are_distributions(
    bundle_of_three: BundleManifest, data: st.DataObject
) -> None:
    content = bundle_of_three.model_dump(mode="json")
    raw = data.draw(st.lists(st.floats(1e-12, 1), min_size=3, max_size=3))
    for member, weight in zip(content["members"], raw, strict=True):
        member["weight"] = weight / sum(raw)
    content["temperature"] = data.draw(temperatures)
    content["cascade"]["temperatures"] = data.draw(st.tuples(temperatures, temperatures))
    try:
        bundle = BundleManifest.model_validate_json(json.dumps(content), strict=True)
    except ValueError:
        return
    rows = data.draw(st.lists(logits, min_size=9, max_size=9))
    probs_MK = softmax(np.array(rows, np.float32).reshape(3, 3))
    for depth in (1, 2, 3):
        answer = prediction(MemberOutputs(probs_MK[:depth]), bundle, PredictOptions(members=True))
        shown = [answer["probabilities"], *(each["probabilities"] for each in answer["members"])]
        for probs_K in shown:
            assert np.isfinite(probs_K).all() and np.min(probs_K) >= 0
            assert sum(probs_K) == pytest.approx(1, abs=1e-9)
        text = json.dumps(answer, allow_nan=False)  # raises if anything is no number
        assert "NaN" not in text


@pytest.fixture(scope="module")
def bundle_of_three(tmp_path_factory: pytest.TempPathFactory) -> BundleManifest:
    directory = tmp_path_factory.mktemp("three") / "bundle"
    return read_bundle(make_bundle(directory, cascade=cascade_record((0.8, 0.5))))


def test_a_change_of_any_file_that_is_loaded_is_noticed_by_the_hash_of_the_manifest(
    bundle_dir: Path,
) -> None:
    """`--expect-bundle` covers every byte: the server reads the manifest and what it lists."""
    expected = sha256_of((bundle_dir / BUNDLE_FILE).read_bytes())
    opened = files_opened_by(lambda: load_engine(bundle_dir, expected_sha256=expected), bundle_dir)
    members = {f"members/cycle-{cycle:02d}.onnx" for cycle in range(3)}
    assert opened == {BUNDLE_FILE, *members}
    rng = np.random.default_rng(0)
    for file in sorted(opened):
        whole = (bundle_dir / file).read_bytes()
        for place in {0, len(whole) - 1, *rng.integers(0, len(whole), 20).tolist()}:
            changed = bytearray(whole)
            changed[place] ^= 1
            (bundle_dir / file).write_bytes(changed)
            with pytest.raises(InvalidManifest, match="sha256 is"):
                load_engine(bundle_dir, expected_sha256=expected)
        (bundle_dir / file).write_bytes(whole)
    with load_engine(bundle_dir, expected_sha256=expected):
        pass


def files_opened_by(action: Callable[[], object], directory: Path) -> set[str]:
    """Which files of a directory Python opens meanwhile; ONNX Runtime is given bytes."""
    found: set[str] = set()
    listening = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if listening and event == "open" and isinstance(arguments[0], str | Path):
            path = Path(arguments[0])
            if path.is_relative_to(directory) and path != directory:
                found.add(str(path.relative_to(directory)))

    sys.addaudithook(hook)
    try:
        action()
    finally:
        listening = False
    return found


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_names_of_classes_do_not_reach_a_terminal_as_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    names = ("\x1b]0;owned\x07ant", "\x9b2Jbee", "cow\u202e\x7f\nfly 99%")
    bundle_dir = make_bundle(
        tmp_path / "bundle", classes=names, calibration=calibration_record(0.6)
    )
    image = tmp_path / "a\x1b[2J.png"
    image.write_bytes(encoded(picture()))
    asked = ["predict", str(image), "--bundle", str(bundle_dir), "--coverage", "0.9", *flags]
    assert main(asked) == 0
    shown = capsys.readouterr().out
    assert not {"\x1b", "\x9b", "\x07", "\x7f", "\u202e"} & set(shown)
    if flags:
        assert {each["class"] for each in json.loads(shown)["predictions"][0]["top"]} == set(names)
    else:
        assert len(shown.splitlines()) == 1 and r"\x1b]0;owned\x07ant" in shown
