import csv
import errno
import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from snapensemble.contracts.errors import WriteFailed
from snapensemble.many.parquet import write_parquet
from snapensemble.many.rows import (
    answered,
    columns,
    csv_line,
    csv_text,
    folder_of,
    json_line,
    path_of,
    path_text,
    unreadable,
)

PROMISES = ["prediction_set", "abstain", "novel", "distance"]
NAMES = columns(top=True, probabilities=True, promises=PROMISES, place="move")
PREDICTION = {
    "class": 'say "cat", or;\nso',
    "index": 1,
    "probability": 0.75,
    "top": [{"class": "cat", "index": 1, "probability": 0.75}],
    "probabilities": [0.25, 0.75],
    "uncertainty": {"entropy_nats": 0.5, "disagreement_nats": 0.125},
    "prediction_set": {"coverage": 0.9, "classes": ["cat", "dög"]},
    "abstain": False,
    "novelty": {"novel": True, "distance": 0.25, "false_alarms": 0.01},
    "members_used": 3,
}
PATHS = st.binary(min_size=1).filter(lambda data: b"\0" not in data).map(os.fsdecode)


def cells(data: bytes) -> list[str]:
    (row,) = csv.reader(io.StringIO(data.decode(), newline=""))
    return row


def test_the_columns() -> None:
    assert NAMES == (
        "path", "class", "index", "probability", "top", "probabilities", "entropy_nats",
        "disagreement_nats", "members_used", "prediction_set", "abstain", "novel", "distance",
        "moved_to", "error",
    )  # fmt: skip
    few = columns(top=False, probabilities=False, promises=[], place=None)
    assert few == (
        "path", "class", "index", "probability", "entropy_nats", "disagreement_nats",
        "members_used", "error",
    )  # fmt: skip


@given(PATHS)
def test_any_path_comes_out_readable_and_comes_back(path: str) -> None:
    text = path_text(path)
    assert text.isprintable() and text.encode().decode() == text
    back = path_of(text)
    assert back in (path, f"./{path}")
    assert not text.startswith(("=", "+", "-", "@"))


def test_an_ordinary_path_is_written_as_it_is() -> None:
    for path in ("photos/cat 1.jpg", "/bilder/Übersee,süß.png", "猫/1.png"):
        assert path_text(path) == path


def test_what_does_not_show_is_written_as_in_a_literal() -> None:
    assert path_text("a\nb") == r"a\nb"
    assert path_text("a\\b") == r"a\\b"
    assert path_text(os.fsdecode(b"a\xff")) == r"a\udcff"
    assert path_text("a\u202eb") == r"a\u202eb"
    assert path_text("=1+1.png") == "./=1+1.png"


@given(st.text(max_size=20), PATHS)
def test_a_row_of_csv_or_json_comes_back_whatever_is_in_it(name: str, path: str) -> None:
    name = name.encode(errors="ignore").decode()
    prediction = PREDICTION | {"class": name}
    row = answered(path, prediction, {"moved_to": "sorted/x.png"})
    line = json_line(NAMES)(row)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    found = json.loads(line)
    assert tuple(found) == NAMES and found["class"] == name and found["error"] is None
    assert found["top"] == PREDICTION["top"] and found["prediction_set"] == ["cat", "dög"]
    in_csv = dict(zip(NAMES, cells(csv_line(NAMES)(row)), strict=True))
    assert in_csv["path"] == found["path"]
    # Python's reader takes every line end inside quotes for what it is.
    assert in_csv["class"] == name
    assert float(in_csv["probability"]) == 0.75 and in_csv["error"] == ""
    assert json.loads(in_csv["top"]) == PREDICTION["top"]


def test_a_picture_that_cannot_be_read_has_a_row_that_says_why() -> None:
    row = unreadable("a.png", ValueError("no picture"))
    found = json.loads(json_line(NAMES)(row))
    assert found.pop("path") == "a.png" and found.pop("error") == "no picture"
    assert set(found.values()) == {None}


def test_the_head_of_a_csv_file_names_the_columns() -> None:
    assert cells(csv_text(NAMES)) == list(NAMES)


@given(st.lists(st.text(max_size=300), min_size=2, max_size=2, unique=True))
def test_two_classes_have_two_folders_that_stay_below_theirs(names: list[str]) -> None:
    folders = [folder_of(name) for name in names]
    assert folders[0] != folders[1]
    for folder in folders:
        assert "/" not in folder and "\0" not in folder and folder not in ("", ".", "..")
        assert not folder.startswith(".") and len(os.fsencode(folder)) <= 255


def test_an_ordinary_class_has_a_folder_of_its_name() -> None:
    assert folder_of("golden retriever") == "golden retriever" and folder_of("猫") == "猫"
    assert folder_of("a/b") == "a%2Fb" and folder_of("..") == "%2E."


def test_every_column_has_in_parquet_the_value_that_it_has_in_json(tmp_path: Path) -> None:
    rows = [
        answered("a.png", PREDICTION, {"moved_to": "there/a.png"}),
        unreadable("b.png", ValueError("no picture")),
    ]
    lines, out = tmp_path / "lines", tmp_path / "rows.parquet"
    lines.write_bytes(b"".join(map(json_line(NAMES), rows)))
    write_parquet(lines, out, NAMES, len(rows))
    assert parquet.read_table(out).to_pylist() == [
        {name: row.get(name) for name in NAMES} for row in rows
    ]


def test_a_full_disk_leaves_no_half_parquet_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    lines, out = tmp_path / "lines", tmp_path / "rows.parquet"
    lines.write_bytes(json_line(NAMES)(unreadable("b.png", ValueError("no picture"))))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteFailed, match="rows.parquet: the disk is full"):
        write_parquet(lines, out, NAMES, 1)
    assert os.listdir(tmp_path) == ["lines"]
