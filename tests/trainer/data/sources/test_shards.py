import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.errors import InvalidData
from snapensemble.trainer.data.sources.shards import expanded, find_shards
from tests.trainer.folders import load, make_folder


def shard(file: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(file, "w") as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file


def samples(root: Path, start: int, stop: int) -> list[tuple[str, bytes]]:
    """Some pictures of CLASS/*, each followed by its label, in one form or the other."""
    members = []
    for index, path in enumerate(sorted(root.rglob("*.png"))[start:stop]):
        label = path.parent.name
        members.append((f"x/{index:04d}.png", path.read_bytes()))
        members.append(
            (f"x/{index:04d}.cls", f"{label}\n".encode())
            if index % 2
            else (f"x/{index:04d}.json", json.dumps({"label": label, "id": 3}).encode())
        )
    return members


@pytest.mark.parametrize("pattern", ["flowers-{train,val}-{000..001}.tar", "*.tar", ""])
def test_shards_are_the_data_set_of_the_folder(tmp_path: Path, pattern: str) -> None:
    for part in ("train", "val"):
        make_folder(tmp_path / "folder" / part, {"a": 4, "b": 5})
        for i, (start, stop) in enumerate([(0, 6), (6, 9)]):
            members = samples(tmp_path / "folder" / part, start, stop)
            shard(tmp_path / f"flowers-{part}-{i:03d}.tar", *members)
    data = load(f"wds:{tmp_path / pattern}")
    assert data.fingerprint() == load(tmp_path / "folder").fingerprint()


def test_shards_whose_names_tell_no_part_are_divided(tmp_path: Path) -> None:
    make_folder(tmp_path / "folder", {"a": 8, "b": 9})
    file = shard(tmp_path / "0.tar", *samples(tmp_path / "folder", 0, 17))
    assert load(f"wds:{file}").fingerprint() == load(tmp_path / "folder").fingerprint()


def test_numbers_as_labels_are_ordered_as_numbers(tmp_path: Path) -> None:
    members = [(f"{i}.{kind}", b"%d" % i) for i in (10, 9, 0) for kind in ("jpg", "cls")]
    assert find_shards(shard(tmp_path / "0.tar", *members)).classes == ("0", "9", "10")


def test_what_is_no_picture_and_no_label_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = [
        *[("1.jpg", b""), ("1.txt", b""), ("1.mask.png", b""), ("1.cls", b"a")],
        *[("2.JPEG", b""), ("2.cls", b"b"), ("2.txt", b""), ("._2.jpg", b"")],
        *[("3.mp4", b""), ("__MACOSX/1.jpg", b"")],
    ]
    found = find_shards(shard(tmp_path / "0.tar", *members))
    source = found.parts["everything"].source
    assert [source.name(i) for i in range(len(source))] == [
        f"{tmp_path}/0.tar: 1.jpg",
        f"{tmp_path}/0.tar: 2.JPEG",
    ]
    assert capsys.readouterr().err == "passed over: 2 .txt, 1 .mask.png, 1 .mp4\n"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "no sample has a picture; expected KEY.jpg"),
        ([("1.cls", b"a")], "no sample has a picture"),
        ([("1.jpg", b""), ("1.txt", b"a")], "'/1' has no label; expected 1.cls or .json .*found"),
        ([("a/1.jpg", b""), ("b/1.cls", b"a")], "'a/1' has no label"),
        ([("1.jpg", b""), ("1.cls", b"Gr\xfcn")], "1.cls: byte 2 is not UTF-8; write labels"),
        ([("1.jpg", b""), ("1.json", b'{"label": "\xfc"}')], "1.json: byte 11 is not UTF-8"),
        ([("1.jpg", b""), ("1.JSON", b'{"x": "a"}')], "1.JSON has no label; .* under one of label"),
        ([("1.jpg", b""), ("1.cls", b" \n")], "1.cls has no label; expected a text or a number"),
        ([("1.jpg", b""), ("1.json", b'{"id": 3}')], "1.json has no label; .* under one of label"),
        ([("1.jpg", b""), ("1.json", b"[")], "1.json has no label"),
        ([("1.jpg", b""), ("1.json", b"[" * 100_000)], "1.json has no label"),
        ([("1.jpg", b""), ("1.png", b""), ("1.cls", b"a")], "several pictures: 1.jpg, 1.png"),
    ],
)
def test_a_shard_that_cannot_be_used_says_why(
    tmp_path: Path, members: list[tuple[str, bytes]], message: str
) -> None:
    with pytest.raises(InvalidData, match=message):
        find_shards(shard(tmp_path / "0.tar", *members))


def test_files_that_are_missing_or_no_plain_tar_files_are_named(tmp_path: Path) -> None:
    file = shard(tmp_path / "0.tar", ("1.jpg", b""), ("1.cls", b"a"))
    with pytest.raises(InvalidData, match=r"1.tar: No such file"):
        find_shards(tmp_path / "{0..1}.tar")
    with pytest.raises(InvalidData, match=r"no file fits .*x\*.tar"):
        find_shards(tmp_path / "x*.tar")
    (tmp_path / "1.tar").write_bytes(gzip.compress(file.read_bytes()))
    with pytest.raises(InvalidData, match="1.tar: cannot be read .* has to be decompressed"):
        find_shards(tmp_path / "{0..1}.tar")


def test_shards_of_which_one_tells_no_part_are_refused(tmp_path: Path) -> None:
    for name in ("train-0", "more"):
        shard(tmp_path / f"{name}.tar", ("1.jpg", b""), ("1.cls", b"a"))
    with pytest.raises(InvalidData, match="more.tar tells no part, those of others do"):
        find_shards(tmp_path)


def test_a_picture_that_cannot_be_read_is_named_with_its_shard(tmp_path: Path) -> None:
    make_folder(tmp_path / "folder", {"a": 4, "b": 4})
    members = samples(tmp_path / "folder", 0, 8)
    file = shard(tmp_path / "0.tar", *members, ("x/9.jpg", b"no picture"), ("x/9.cls", b"a"))
    with pytest.raises(InvalidData, match=r"0.tar: x/9.jpg: not an image"):
        load(f"wds:{file}")


@given(
    first=st.integers(0, 12), count=st.integers(1, 5), width=st.integers(1, 4), word=st.text("ab.-")
)
def test_a_range_stands_for_its_numbers_with_their_zeros(
    first: int, count: int, width: int, word: str
) -> None:
    last = first + count - 1
    pattern = f"{word}{{{first:0{width}d}..{last}}}-{{x,y}}"
    assert list(expanded(pattern)) == [
        f"{word}{number:0{max(width, len(str(first)))}d}-{letter}"
        for number in range(first, last + 1)
        for letter in "xy"
    ]


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "pattern", ["{0..999999999999}.tar", "{a,b}" * 30, "{0..999}{0..999}", "{0..9}" * 5_000]
)
def test_a_pattern_without_end_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidData, match="stands for more than 100,000 files"):
        list(expanded(pattern))


def test_braces_and_numbers_of_any_length_are_texts() -> None:
    assert list(expanded("{a}" * 3_000)) == ["a" * 3_000]
    assert list(expanded("{0.." + "9" * 5_000 + "}")) == ["0.." + "9" * 5_000]


def test_a_label_of_thousands_of_digits_is_a_label(tmp_path: Path) -> None:
    members = [("1.jpg", b""), ("1.cls", b"9" * 5_000), ("2.jpg", b""), ("2.cls", b"7")]
    assert find_shards(shard(tmp_path / "0.tar", *members)).classes == ("7", "9" * 5_000)


@pytest.mark.timeout(30)
def test_a_shard_that_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0.tar")
    with pytest.raises(InvalidData, match="0.tar is no regular file"):
        find_shards(tmp_path)
