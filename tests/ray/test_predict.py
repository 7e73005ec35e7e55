"""`snapensemble predict --ray` on a cluster of two nodes: the rows, and what stops them."""

import io
import os
import shutil
import signal
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.factories import make_bundle
from tests.ray.conftest import COUNT, TwoNodes, ended, run, started, wait_while_running

FOLDERS = 100  # that lead to the same pictures: more than are answered before a test does a thing
MANY = FOLDERS * COUNT // 2


def rows_of(out: Path) -> list[dict[str, Any]]:
    """The rows of a file or of a folder, in the order of the names of its files."""
    return parquet.read_table(out).to_pylist()  # type: ignore[no-any-return]


def parts_of(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(out.glob("part-*.parquet"))}


@pytest.fixture(scope="module")
def many_photos(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table that names the same pictures again and again, by other paths."""
    root = tmp_path_factory.mktemp("many")
    files = sorted((photos / "b").iterdir())
    for number in range(FOLDERS):
        (root / f"{number:03d}").symlink_to(photos / "b")
    paths = [f"{folder:03d}/{file.name}" for folder in range(FOLDERS) for file in files]
    assert len(paths) == MANY
    parquet.write_table(pa.table({"path": paths}), root / "photos.parquet")
    return root / "photos.parquet"


def inside(photos: Path, root: Path) -> tuple[Path, Path]:
    """The pictures of a folder as cells of a Parquet file, and in two tar files."""
    files = sorted(photos.rglob("*.*"))
    table = pa.table({"image": [file.read_bytes() for file in files], "number": range(len(files))})
    parquet.write_table(table, root / "photos.parquet", row_group_size=50)
    for shard in range(2):
        with tarfile.open(root / f"photos-{shard}.tar", "w") as archive:
            for file in files[shard::2]:
                for suffix, data in ((file.suffix, file.read_bytes()), (".cls", b"3")):
                    member = tarfile.TarInfo(f"{file.stem}{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return root / "photos.parquet", root / "photos-{0..1}.tar"


def test_all_kinds_of_sources_give_the_rows_that_they_give_without_a_cluster(
    cluster: TwoNodes, photos: Path, bundle: Path, tmp_path: Path
) -> None:
    table, tars = inside(photos, tmp_path)
    sources = [photos / "a", f"{photos}/**/*1.png", f"parquet:{table}", f"wds:{tars}"]
    flags = ["--bundle", bundle, "--top", 2, "--probabilities"]
    run("predict", *sources, *flags, "--out", tmp_path / "alone.parquet")
    more = ["--ray", cluster.address, "--part-rows", 37]
    said = run("predict", *sources, *flags, *more, "--out", tmp_path / "parts")
    assert said.splitlines()[-1] == str(tmp_path / "parts")
    found = parquet.read_table(tmp_path / "parts")
    assert found.equals(parquet.read_table(tmp_path / "alone.parquet"))
    assert "3 cannot be read" in said and said.count("the JPEG is cut off") == 3
    bad = [row["path"] for row in found.to_pylist() if row["error"]]
    assert bad == [
        f"{photos}/a/broken.jpg",
        f"{table} row {COUNT // 2}",
        f"{tmp_path}/photos-0.tar: broken.jpg",
    ]
    sizes = [
        parquet.read_metadata(file).num_rows for file in sorted((tmp_path / "parts").glob("part*"))
    ]
    assert set(sizes[:-1]) == {37} and 0 < sizes[-1] <= 37
    assert max(map(len, cluster.bundles())) == 1, "the bundle is on a node that works, once"


def test_a_node_that_is_killed_loses_nothing_and_doubles_nothing(
    mortal_cluster: TwoNodes, many_photos: Path, bundle: Path, tmp_path: Path
) -> None:
    source, out = f"parquet:{many_photos}", tmp_path / "parts"
    run("predict", source, "--bundle", bundle, "--out", tmp_path / "alone.parquet")
    more = ["--ray", mortal_cluster.address, "--part-rows", 50]
    process = started("predict", source, "--bundle", bundle, "--out", out, *more)
    wait_while_running(process, lambda: all(mortal_cluster.bundles()))
    wait_while_running(process, lambda: len(parts_of(out)) > 2)
    mortal_cluster.remove_node()
    before = parts_of(out)
    assert process.poll() is None and len(before) < MANY // 50, "it was too fast to be killed"
    said = ended(process)
    assert f"{MANY:,} pictures answered" in said
    assert parts_of(out).items() >= before.items()
    found = parquet.read_table(out)
    assert found.equals(parquet.read_table(tmp_path / "alone.parquet"))


def test_ctrl_c_stops_the_workers_and_the_same_command_asks_for_what_is_missing_only(
    cluster: TwoNodes, many_photos: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "parts"
    command = ["predict", f"parquet:{many_photos}", "--bundle", bundle, "--out", out]
    command += ["--ray", cluster.address, "--part-rows", 50]
    process = started(*command)
    wait_while_running(process, lambda: len(parts_of(out)) > 1)
    process.send_signal(signal.SIGINT)
    said = ended(process, 130)
    assert "the same command goes on" in said and "stopped by SIGINT" in said
    before = {file: file.stat().st_mtime_ns for file in out.glob("part-*")}
    assert 0 < len(before) < MANY // 50
    assert sorted(os.listdir(out)) == ["_plan.jsonl", *sorted(file.name for file in before)]
    said = run(*command)
    rows = 50 * len(before)
    assert f"going on after {rows:,} rows" in said and f"{MANY - rows:,} pictures answered" in said
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert len({row["path"] for row in rows_of(out)}) == len(rows_of(out)) == MANY
    assert "pictures answered" not in run(*command), "all is there"


def test_a_bundle_that_changes_while_it_is_used_changes_nothing(
    cluster: TwoNodes, many_photos: Path, bundle: Path, tmp_path: Path
) -> None:
    changing, out = tmp_path / "changing", tmp_path / "parts"
    shutil.copytree(bundle, changing)
    source = f"parquet:{many_photos}"
    run("predict", source, "--bundle", bundle, "--out", tmp_path / "alone.parquet")
    command = ["predict", source, "--bundle", changing, "--out", out, "--ray", cluster.address]
    process = started(*command)
    wait_while_running(process, lambda: (out / "_plan.jsonl").exists())
    shutil.rmtree(changing)
    make_bundle(changing, temperature=2.0)
    ended(process)
    assert parquet.read_table(out).equals(parquet.read_table(tmp_path / "alone.parquet"))
    said = run(*command, code=2)
    assert "was begun in another way: the bundle was" in said


def test_what_workers_need_and_no_node_has_is_said_before_they_start(
    cluster: TwoNodes, photos: Path, bundle: Path, tmp_path: Path
) -> None:
    command = ["predict", photos, "--bundle", bundle, "--ray", cluster.address]
    said = run(*command, "--out", tmp_path / "gpus", "--ray-gpus", 1, code=2)
    assert "no node of the cluster has 1 CPUs and 1 GPUs for one worker" in said
    said = run(*command, "--out", tmp_path / "parts", "--mode", "cascade", code=2)
    assert "a worker cannot answer: mode: this bundle carries no cascade" in said
    assert not parts_of(tmp_path / "parts")


def test_a_node_with_another_version_is_refused(
    mortal_cluster: TwoNodes, photos: Path, bundle: Path, tmp_path: Path
) -> None:
    other = tmp_path / "site" / "snapensemble-9.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: snapensemble\nVersion: 9.9\n")
    mortal_cluster.add_node(env_vars={"PYTHONPATH": str(other.parent)})
    command = ["predict", photos, "--bundle", bundle, "--out", tmp_path / "parts"]
    said = run(*command, "--ray", mortal_cluster.address, code=2)
    assert "has other software: snapensemble 9.9, here " in said


def test_a_cluster_of_ones_own_gives_the_same_rows(
    photos: Path, bundle: Path, tmp_path: Path
) -> None:
    run("predict", photos, "--bundle", bundle, "--out", tmp_path / "alone.parquet")
    run("predict", photos, "--bundle", bundle, "--out", tmp_path / "parts", "--ray", "local")
    assert rows_of(tmp_path / "parts") == rows_of(tmp_path / "alone.parquet")
