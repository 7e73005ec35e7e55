"""Bundles whose members share a trunk answer as bundles of whole networks do."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from snapensemble.contracts.bundle import BundleManifest, read_bundle
from snapensemble.contracts.errors import InvalidManifest
from snapensemble.contracts.metrics import Floats, softmax
from snapensemble.contracts.options import build
from snapensemble.contracts.run import read_run, write_run
from snapensemble.export.bundle import build_bundle
from snapensemble.export.config import ExportConfig
from snapensemble.export.parity import run_members
from tests.export.runs import SIDE, STAGED, staged_run

NOISE = np.random.default_rng(3).integers(0, 256, (70, 3, SIDE, SIDE), dtype=np.uint8)


pytestmark = pytest.mark.usefixtures("staged")


def exported(runs: Path | list[Path], out: Path, **settings: Any) -> BundleManifest:
    config = build(ExportConfig, {"report": False, "select": "all", **settings})
    return build_bundle(runs, out, config)


def answers(bundle_dir: Path) -> Floats:
    """probs_MNK of a bundle's files for noise."""
    bundle = read_bundle(bundle_dir)
    trunk = None if bundle.trunk is None else (bundle_dir / bundle.trunk.file).read_bytes()
    members = [(bundle_dir / member.file).read_bytes() for member in bundle.members]
    return softmax(run_members(members, NOISE, trunk))


def whole(run_dir: Path, out: Path) -> Path:
    """The same run as if it had trained whole networks."""
    import safetensors.torch

    from snapensemble.contracts.files import write_atomically

    shutil.copytree(run_dir, out)
    run = read_run(out)
    assert run.trunk is not None
    trunk = safetensors.torch.load_file(out / run.trunk.file)
    snapshots = []
    for snapshot in run.snapshots:
        both = safetensors.torch.save(trunk | safetensors.torch.load_file(out / snapshot.file))
        sha256 = write_atomically(out / snapshot.file, both)
        snapshots.append(snapshot.model_copy(update={"sha256": sha256}))
    write_run(out, run.model_copy(update={"trunk": None, "snapshots": tuple(snapshots)}))
    return out


@pytest.mark.parametrize(("tune", "features"), [("last", (16, 4, 4)), ("head", (16,))])
def test_members_behind_a_trunk_answer_as_whole_networks_do(
    images: Path, tmp_path: Path, tune: str, features: tuple[int, ...]
) -> None:
    run_dir = staged_run(tmp_path / "run", images, tune=tune)
    bundle = exported(run_dir, tmp_path / "parts")
    alone = exported(whole(run_dir, tmp_path / "whole-run"), tmp_path / "whole")
    assert bundle.trunk is not None and bundle.trunk.features == features
    assert alone.trunk is None
    ours, theirs = answers(tmp_path / "parts"), answers(tmp_path / "whole")
    order = [[m.name for m in bundle.members].index(m.name) for m in alone.members]
    assert np.abs(ours[order] - theirs).max() < 1e-5
    assert bundle.val.nll == pytest.approx(alone.val.nll, abs=1e-9)
    assert bundle.parity.max_probability_difference < 1e-5
    assert bundle.price is not None and alone.price is not None
    for member, price in zip(bundle.price.members, alone.price.members, strict=True):
        assert bundle.price.trunk + member == price
    assert bundle.price.in_single_networks < alone.price.in_single_networks == 3


def test_a_trunk_says_what_it_is_and_its_members_what_they_take(star: Path, tmp_path: Path) -> None:
    bundle = exported(star, tmp_path / "bundle")
    assert bundle.trunk is not None
    trunk = onnx.load(tmp_path / "bundle" / bundle.trunk.file)
    member = onnx.load(tmp_path / "bundle" / bundle.members[0].file)
    assert (trunk.graph.input[0].name, trunk.graph.output[0].name) == ("images", "features")
    assert (member.graph.input[0].name, member.graph.output[0].name) == ("features", "logits")
    said = {entry.key: entry.value for entry in trunk.metadata_props}
    assert (said["model"], said["tune"], said["precision"]) == (STAGED, "last", "fp32")
    assert "features: float32 [batch, 16, 4, 4]" in member.graph.doc_string
    assert b".py" not in trunk.SerializeToString()


def test_one_member_alone_is_a_whole_network(star: Path, tmp_path: Path) -> None:
    bundle = exported(star, tmp_path / "bundle", select="last", members=1)
    assert bundle.trunk is None
    assert answers(tmp_path / "bundle").shape == (1, 70, 3)


def test_runs_with_the_same_trunk_share_it_and_others_do_not(
    star: Path, images: Path, tmp_path: Path
) -> None:
    same = staged_run(tmp_path / "same", images, seed=7, cycles=2)
    other = staged_run(tmp_path / "other", images, trunk_seed=1, cycles=2)
    deeper = staged_run(tmp_path / "deeper", images, tune="head", cycles=2)
    assert exported([star, same], tmp_path / "a").trunk is not None
    assert exported([star, other], tmp_path / "b").trunk is None
    assert exported([star, deeper], tmp_path / "c").trunk is None
    assert answers(tmp_path / "b").shape == (5, 70, 3)


def test_int8_is_judged_over_trunk_and_members_together(star: Path, tmp_path: Path) -> None:
    bundle = exported(star, tmp_path / "bundle", quantize="int8", int8_gate="estimate")
    assert bundle.trunk is not None and bundle.trunk.precision == "int8"
    assert {member.precision for member in bundle.members} == {"int8"}
    assert bundle.quantization is not None and bundle.quantization.agreement > 0.9
    fp32 = exported(star, tmp_path / "fp32")
    order = [[m.name for m in fp32.members].index(m.name) for m in bundle.members]
    gap = np.abs(answers(tmp_path / "bundle") - answers(tmp_path / "fp32")[order]).max()
    assert 0 < gap < 0.2
    assert bundle.price == fp32.price


def test_a_last_layer_behind_an_int8_trunk_stays_in_float(images: Path, tmp_path: Path) -> None:
    run_dir = staged_run(tmp_path / "run", images, tune="head")
    bundle = exported(run_dir, tmp_path / "bundle", quantize="int8", int8_gate="estimate")
    assert bundle.trunk is not None and bundle.trunk.precision == "int8"
    assert {member.precision for member in bundle.members} == {"fp32"}


def test_the_report_is_measured_through_the_trunk(star: Path, tmp_path: Path) -> None:
    exported(star, tmp_path / "bundle", report=True)
    assert (tmp_path / "bundle" / "report" / "index.html").is_file()


def test_a_trunk_that_was_changed_is_named(star: Path, tmp_path: Path) -> None:
    shutil.copytree(star, tmp_path / "run")
    file = tmp_path / "run" / "trunk.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(InvalidManifest, match=r"trunk.safetensors: sha256 is .*changed or damaged"):
        exported(tmp_path / "run", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
