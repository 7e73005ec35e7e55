"""A bundle on its way to a node."""

import os
from pathlib import Path

import pytest

from snapensemble.contracts.bundle import read_bundle
from snapensemble.contracts.errors import InvalidConfig, InvalidManifest
from snapensemble.many.cluster.bundle import Packed, packed, unpacked


def never() -> Packed:
    raise AssertionError("it is there already")


def test_a_bundle_arrives_as_it_was_and_is_fetched_once(trunk_dir: Path, tmp_path: Path) -> None:
    sha256, files = packed(trunk_dir)
    there = unpacked(sha256, lambda: files, tmp_path / "node")
    assert there.name == sha256 and read_bundle(there, sha256) == read_bundle(trunk_dir)
    assert packed(there) == (sha256, files)
    assert unpacked(sha256, never, tmp_path / "node") == there


@pytest.mark.parametrize("kind", ["changed", "absent", "cut off"])
def test_what_is_not_whole_on_the_node_is_fetched_again(
    kind: str, bundle_dir: Path, tmp_path: Path
) -> None:
    sha256, files = packed(bundle_dir)
    there = unpacked(sha256, lambda: files, tmp_path / "node")
    file = there / read_bundle(there).members[-1].file
    if kind == "absent":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1] + (b"?" if kind == "changed" else b""))
    assert packed(unpacked(sha256, lambda: files, tmp_path / "node")) == (sha256, files)


def test_a_damaged_bundle_does_not_set_out(bundle_dir: Path) -> None:
    file = bundle_dir / read_bundle(bundle_dir).members[0].file
    file.write_bytes(file.read_bytes() + b"?")
    with pytest.raises(InvalidManifest, match="refused unread|the manifest says"):
        packed(bundle_dir)


def test_a_place_that_others_may_write_to_is_refused(bundle_dir: Path, tmp_path: Path) -> None:
    sha256, files = packed(bundle_dir)
    (tmp_path / "node").mkdir()
    (tmp_path / "node").chmod(0o777)
    with pytest.raises(InvalidConfig, match="that only this user may write to"):
        unpacked(sha256, lambda: files, tmp_path / "node")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InvalidConfig, match="that only this user may write to"):
        unpacked(sha256, lambda: files, tmp_path / "link")


def test_what_failed_half_way_is_not_taken_for_a_bundle(bundle_dir: Path, tmp_path: Path) -> None:
    sha256, files = packed(bundle_dir)
    broken = {**files, "no/such\0name": b""}
    with pytest.raises(ValueError, match="null byte"):
        unpacked(sha256, lambda: broken, tmp_path / "node")
    assert os.listdir(tmp_path / "node") == [f"{sha256}.lock"]
    assert packed(unpacked(sha256, lambda: files, tmp_path / "node")) == (sha256, files)
