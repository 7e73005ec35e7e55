"""Pictures inside Parquet files and tar files: found, named and read."""

import io
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from snapensemble.cli import main
from snapensemble.contracts.errors import InvalidData
from snapensemble.many.inside import Reader, Sources
from tests.factories import encoded, picture

PICTURES = [encoded(picture(number)) for number in range(7)]


def table(file: Path, pictures: list[bytes] = PICTURES) -> Path:
    rows = [{"bytes": data, "path": None} for data in pictures]
    parquet.write_table(pa.table({"image": rows, "label": ["x"] * len(rows)}), file)
    return file


def tar(file: Path, pictures: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w") as archive:
        for name, data in pictures.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file


def read(*sources: str) -> dict[str, bytes]:
    reader = Reader()
    return {name: reader.read(address) for name, address in Sources(sources)}


def test_rows_of_parquet_files_are_pictures(tmp_path: Path) -> None:
    first, second = table(tmp_path / "1.parquet"), table(tmp_path / "2.parquet", PICTURES[:2])
    found = read(f"parquet:{tmp_path}/*.parquet")
    assert list(found.values()) == [*PICTURES, *PICTURES[:2]]
    names = [f"{first} row {row}" for row in range(7)] + [f"{second} row {row}" for row in (0, 1)]
    assert list(found) == names
    assert read(f"parquet:{tmp_path}/{{1..2}}.parquet") == found


def test_paths_in_a_parquet_file_begin_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(PICTURES[1])
    parquet.write_table(pa.table({"file": ["a/1.png"], "n": [3]}), tmp_path / "t.parquet")
    assert read(f"parquet:{tmp_path}/t.parquet") == {f"{tmp_path}/a/1.png": PICTURES[1]}


def test_pictures_of_tar_files_need_no_labels(tmp_path: Path) -> None:
    files = {"x/1.png": PICTURES[1], "x/1.json": b"{}", "x/2.png": PICTURES[2], "x/.h.png": b""}
    shard = tar(tmp_path / "0.tar", files)
    found = read(f"wds:{tmp_path}/{{0..0}}.tar")
    assert found == {f"{shard}: x/1.png": PICTURES[1], f"{shard}: x/2.png": PICTURES[2]}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("parquet:{}/none.parquet", "no such file|cannot be read|No such file|no file fits"),
        ("parquet:{}/*.none", "no file fits"),
        ("wds:{}/*.none", "no file fits"),
        ("wds:{}/bad.tar", "cannot be read as a tar file"),
        ("parquet:{}/bad.tar", "cannot be read"),
        ("parquet:{}/numbers.parquet", "expected one with encoded pictures, or with paths"),
        ("parquet:{}/empty.parquet", "row 0: the path is ''"),
        ("{}/none", "no such file"),
    ],
)
def test_what_holds_no_pictures_is_said(source: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(b"x" * 2000)
    parquet.write_table(pa.table({"n": [3]}), tmp_path / "numbers.parquet")
    parquet.write_table(pa.table({"path": [""]}), tmp_path / "empty.parquet")
    sources = Sources([source.format(tmp_path)])
    with pytest.raises(InvalidData, match=message):
        sources.check()
        list(sources)


def test_rows_without_a_cluster_have_them_too_and_nothing_is_moved(
    bundle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"parquet:{table(tmp_path / 't.parquet', [*PICTURES, b'no picture'])}"
    out = tmp_path / "rows.parquet"
    command = ["predict", source, "--bundle", str(bundle_dir), "--out", str(out)]
    assert main([*command, "--move-to", str(tmp_path / "by-class")]) == 2
    assert "cannot be moved or linked" in capsys.readouterr().err
    assert main(command) == 0
    rows = parquet.read_table(out).to_pylist()
    assert [row["path"] for row in rows] == [f"{tmp_path}/t.parquet row {n}" for n in range(8)]
    assert [row["error"] is None for row in rows] == [True] * 7 + [False]
    assert "1 cannot be read" in capsys.readouterr().err


def test_files_that_are_read_at_a_time_are_few(tmp_path: Path) -> None:
    for number in range(9):
        table(tmp_path / f"{number}.parquet")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    reader = Reader()
    found = [reader.read(each.address) for each in Sources([f"parquet:{tmp_path}/*.parquet"])]
    assert found == PICTURES * 9
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 5
