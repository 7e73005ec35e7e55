import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from snapensemble.contracts.bundle import BUNDLE_FILE, read_bundle, write_bundle
from snapensemble.contracts.errors import InvalidManifest
from snapensemble.contracts.manifest import FileRef, how_classes_differ
from snapensemble.contracts.run import RUN_FILE, read_run
from tests.factories import CONTRACT, DATA


def change(bundle_dir: Path, *path: str | int, to: Any) -> None:
    """Set one value in the bundle's manifest."""
    file = bundle_dir / BUNDLE_FILE
    content = json.loads(file.read_text())
    target = content
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = to
    file.write_text(json.dumps(content))


def test_a_manifest_survives_writing_and_reading(bundle_dir: Path) -> None:
    manifest = read_bundle(bundle_dir)
    write_bundle(bundle_dir, manifest)
    assert read_bundle(bundle_dir) == manifest


def test_an_unknown_field_is_refused_by_name(bundle_dir: Path) -> None:
    change(bundle_dir, "members", 0, "colour", to="red")
    with pytest.raises(InvalidManifest, match=r"members\.0\.colour"):
        read_bundle(bundle_dir)


def test_a_later_version_is_refused_with_what_to_do(bundle_dir: Path) -> None:
    change(bundle_dir, "format_version", to=3)
    change(bundle_dir, "hologram", to="new in version 3")
    with pytest.raises(InvalidManifest, match="later snapensemble.*install a newer"):
        read_bundle(bundle_dir)


def test_another_format_is_refused(bundle_dir: Path) -> None:
    change(bundle_dir, "format", to="snapshot-run")
    with pytest.raises(InvalidManifest, match="expected 'snapshot-bundle'"):
        read_bundle(bundle_dir)


@pytest.mark.parametrize(
    "file",
    [
        "../x",
        "members/../../x",
        "/etc/passwd",
        "",
        ".",
        "a\\..\\b",
        "C:x",
        "a//b",
        "./a",
        "a\0b",
        "a\x1b[2J",
        "a\u202eb",
        "a\n",
    ],
)
def test_a_path_that_could_lead_outside_is_refused(bundle_dir: Path, file: str) -> None:
    change(bundle_dir, "members", 0, "file", to=file)
    with pytest.raises(InvalidManifest, match=r"members\.0\.file"):
        read_bundle(bundle_dir)


@given(st.text(st.sampled_from("./\\a:\0"), max_size=8))
def test_no_accepted_path_leads_outside(
    tmp_path_factory: pytest.TempPathFactory, file: str
) -> None:
    try:
        accepted = FileRef(file=file, sha256="0" * 64).file
    except ValidationError:
        return
    root = Path("/some/directory")
    resolved = Path(root / accepted).resolve()
    assert resolved.is_relative_to(root) and resolved != root


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("classes",), ["a", "a", "b"]),
        (("classes",), ["alone"]),
        (("members",), []),
        (("members", 0, "weight"), 0.9),
        (("members", 0, "sha256"), "A" * 64),
        (("members", 0, "name"), "cycle-01"),
        (("temperature",), 0),
        (("temperature",), "1"),
        (("image", "std"), [0.1, 0.1, 0.0]),
        (("image", "mean"), [0.1]),
        (("image", "channels"), 4),
        (("version",), "../../.."),
        (("val", "accuracy"), 1.5),
    ],
)
def test_a_wrong_value_is_refused(bundle_dir: Path, path: tuple[str, ...], value: Any) -> None:
    change(bundle_dir, *path, to=value)
    with pytest.raises(InvalidManifest):
        read_bundle(bundle_dir)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_what_is_no_manifest_is_refused(bundle_dir: Path, text: str) -> None:
    (bundle_dir / BUNDLE_FILE).write_text(text)
    with pytest.raises(InvalidManifest):
        read_bundle(bundle_dir)


def test_a_directory_without_a_manifest_says_which_command_makes_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="made by `snapensemble train`"):
        read_run(tmp_path)


def test_snapshots_must_be_counted_without_a_gap(tmp_path: Path) -> None:
    reference = {"file": "x", "sha256": "0" * 64}
    snapshot = {
        "cycle": 1, "step": 5, "learning_rate": 0.1, **reference,
        "val": {"nll": 1.0, "accuracy": 0.5}, "val_logits": reference,
    }  # fmt: skip
    run = {
        "format": "snapshot-run", "format_version": 1, "snapensemble": "0",
        "classes": ["a", "b"], "image": CONTRACT.model_dump(mode="json"), "data": DATA.model_dump(),
        "schedule": {
            "name": "sgdr", "T_0": 5, "T_mult": 1, "eta_max": 0.1, "eta_min": 0.0, "cycles": 2,
            "steps_per_epoch": 5, "total_steps": 10,
        },
        "training": {
            "model": "small", "parameters": 1, "batch_size": 2, "momentum": 0.9, "nesterov": True,
            "weight_decay": 0.0, "crop_padding": 0, "flip": False, "seed": 0, "device": "cpu",
            "torch": "0",
        },
        "val_labels": reference, "calibration_images": reference, "snapshots": [snapshot],
    }  # fmt: skip
    (tmp_path / RUN_FILE).write_text(json.dumps(run))
    with pytest.raises(InvalidManifest, match=r"by cycle.*: found \[1\], expected \[0\]"):
        read_run(tmp_path)
    snapshot["cycle"] = 0
    (tmp_path / RUN_FILE).write_text(json.dumps(run))
    assert not read_run(tmp_path).complete
    run["branch"] = {"cycle": 1, "first": reference}
    (tmp_path / RUN_FILE).write_text(json.dumps(run))
    with pytest.raises(InvalidManifest, match=r"by cycle.*: found \[0\], expected \[1\]"):
        read_run(tmp_path)
    snapshot["cycle"] = 1
    (tmp_path / RUN_FILE).write_text(json.dumps(run))
    assert read_run(tmp_path).complete


def test_a_file_in_the_place_of_a_directory_is_no_such_directory(tmp_path: Path) -> None:
    (tmp_path / "run.json").touch()
    with pytest.raises(InvalidManifest, match="does not exist; expected a directory made by"):
        read_run(tmp_path / "run.json")


def test_how_classes_differ_is_said_in_a_line_however_many_they_are() -> None:
    many = [f"class number {number}" for number in range(100_000)]
    for found, expected in ((many[1:], many), (many[::-1], many), (["x", "y"], many)):
        assert len(how_classes_differ(found, expected)) < 300
    assert how_classes_differ(["a", "c", "d"], ["a", "b"]) == "lacks 'b', and has besides 'c', 'd'"
    assert how_classes_differ(["a", "c", "b"], ["a", "b", "c"]) == (
        "has the same classes in another order: 'c' where 'b' is expected"
    )
