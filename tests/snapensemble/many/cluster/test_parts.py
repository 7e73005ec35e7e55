"""The folder of rows, without a cluster: what is safe, and what may go on with it."""

import errno
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from snapensemble.contracts.errors import InvalidConfig, InvalidData, WriteFailed
from snapensemble.many.cluster.parts import (
    Parts,
    Plan,
    divided_into_blocks,
    forget_parts,
    refuse_none,
)
from snapensemble.many.inside import Picture

NAMES = [f"photos/{number}.jpg" for number in range(10)]
OPTIONS = {"--top": "5", "the bundle": "0123"}


def plan_of(
    names: Sequence[str] = NAMES, size: int = 4, options: Mapping[str, str] = OPTIONS
) -> Plan:
    pictures = [Picture(name, os.fsencode(f"/{name}")) for name in names]
    blocks, _ = divided_into_blocks(pictures, size, io.BytesIO(), may_repeat=False)
    return Plan(options, ["/a.tar 12 34 56"], blocks)


def part(rows: int) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"path": NAMES[:rows]}), buffer)
    return buffer.getvalue()


@given(st.lists(st.text().filter(lambda name: "\0" not in name)), st.integers(1, 5))
def test_blocks_have_all_pictures_in_their_order(names: list[str], size: int) -> None:
    pictures = [Picture(name, b"\0wds\0" + name.encode("utf-8", "replace")) for name in names]
    pictures.append(Picture("byte \udcff", b"/byte \xff\n"))
    blocks, spooled = divided_into_blocks(pictures, size, io.BytesIO(), may_repeat=False)
    read = [spooled.read(number) for number in range(len(blocks))]
    assert [len(each) for each in read] == [block.pictures for block in blocks]
    assert [picture for each in read for picture in each] == pictures
    assert all(len(each) == size for each in read[:-1])


def test_a_picture_that_is_named_twice_is_taken_once() -> None:
    names = ["a/1.jpg", "b.jpg", "a/../a/1.jpg", "b.jpg"]
    pictures = [Picture(name, name.encode()) for name in names]
    blocks, spooled = divided_into_blocks(pictures, 9, io.BytesIO(), may_repeat=True)
    assert len(blocks) == 1 and spooled.read(0) == pictures[:2]


def test_a_folder_goes_on_with_the_blocks_that_have_no_file(tmp_path: Path) -> None:
    out = tmp_path / "rows"
    with Parts(out, plan_of()) as parts:
        assert parts.missing == [0, 1, 2] and parts.rows == 0
        assert parts.add(1, part(4))
        assert not parts.add(1, b"what came twice"), "and is not written"
    (out / ".part-000002.parquet.x.tmp").write_bytes(b"of a command that was killed")
    with Parts(out, plan_of()) as parts:
        assert parts.missing == [0, 2] and parts.rows == 4
        assert parts.add(2, part(2)) and parts.add(0, part(4))
    with Parts(out, plan_of()) as parts:
        assert not parts.missing and parts.rows == 10
    parts_there = [f"part-00000{number}.parquet" for number in range(3)]
    assert sorted(os.listdir(out)) == ["_plan.jsonl", *parts_there]
    assert parquet.read_table(out).num_rows == 10, "readers pass over the plan"


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (plan_of(options={**OPTIONS, "--top": "2"}), "--top was 5, is 2"),
        (plan_of(options={**OPTIONS, "the bundle": "4567"}), "the bundle was 0123, is 4567"),
        (plan_of(size=5), "the pictures 1 to 4 are not the same"),
        (plan_of(NAMES[:9]), "there were 10 pictures, and are 9; the pictures 9 to 10 are not"),
        (plan_of(NAMES[:8]), "there were 10 pictures, and are 8"),
        (plan_of([*NAMES, "z.jpg", "z2.jpg", "z3.jpg"]), "there were 10 pictures, and are 13"),
        (plan_of(["new.jpg", *NAMES]), "first of them was photos/0.jpg, is new.jpg"),
        (Plan(OPTIONS, ["/a.tar 12 99 56"], plan_of().blocks), "no more as it was: /a.tar 12 34"),
    ],
)
def test_a_folder_that_was_begun_otherwise_is_refused_with_what_differs(
    plan: Plan, message: str, tmp_path: Path
) -> None:
    with Parts(tmp_path / "rows", plan_of()):
        pass
    with pytest.raises(InvalidConfig, match="was begun in another way") as error:
        Parts(tmp_path / "rows", plan).__enter__()
    assert message in str(error.value)
    forget_parts(tmp_path / "rows")
    with Parts(tmp_path / "rows", plan) as parts:
        assert not parts.finished


def test_somebody_elses_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InvalidConfig, match="holds mine.txt, and no _plan.jsonl"):
        Parts(tmp_path, plan_of()).__enter__()
    forget_parts(tmp_path)
    assert os.listdir(tmp_path) == ["mine.txt"]


@pytest.mark.parametrize(
    ("data", "found"), [(b"no Parquet", "cannot be read"), (part(3), "has 3 rows, expected 4")]
)
def test_a_part_that_was_changed_is_refused(data: bytes, found: str, tmp_path: Path) -> None:
    with Parts(tmp_path / "rows", plan_of()) as parts:
        parts.add(0, data)
    with pytest.raises(InvalidConfig, match=found):
        Parts(tmp_path / "rows", plan_of()).__enter__()


def test_a_plan_that_was_changed_is_refused(tmp_path: Path) -> None:
    with Parts(tmp_path / "rows", plan_of()):
        pass
    (tmp_path / "rows" / "_plan.jsonl").write_text('{"options": {}}\n')
    with pytest.raises(InvalidConfig, match="_plan.jsonl is damaged"):
        Parts(tmp_path / "rows", plan_of()).__enter__()


def test_two_commands_may_not_write_into_one_folder(tmp_path: Path) -> None:
    with (
        Parts(tmp_path / "rows", plan_of()),
        pytest.raises(InvalidConfig, match="another process is writing"),
    ):
        Parts(tmp_path / "rows", plan_of()).__enter__()
    with Parts(tmp_path / "rows", plan_of()):
        pass


def test_a_full_disk_leaves_whole_files_only(tmp_path: Path) -> None:
    with Parts(tmp_path / "rows", plan_of()) as parts:
        parts.add(0, part(4))
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with mock.patch("os.fsync", side_effect=full), pytest.raises(WriteFailed, match="is full"):
            parts.add(1, part(4))
        assert sorted(os.listdir(tmp_path / "rows")) == ["_plan.jsonl", "part-000000.parquet"]
        assert parts.missing == [1, 2] and parts.add(1, part(4))


def test_no_picture_at_all_is_an_error() -> None:
    with pytest.raises(InvalidData, match="no pictures in empty; passed over: 3 .txt"):
        refuse_none([], ["empty"], "passed over: 3 .txt")
