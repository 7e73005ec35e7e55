import csv
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.errors import InvalidData
from snapensemble.trainer.data.sources.source import Found
from snapensemble.trainer.data.sources.table import find_csv
from tests.trainer.folders import load, make_folder


def table(root: Path, text: str | bytes, *pictures: str) -> Path:
    """A table beside empty files of these names."""
    for name in pictures:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    file = root / "labels.csv"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def names(found: Found) -> dict[str, list[tuple[str, str]]]:
    """The name and the class of each picture, by part."""
    return {
        part: [
            (Path(labelled.source.name(index)).name, found.classes[label])
            for index, label in enumerate(labelled.labels)
        ]
        for part, labelled in found.parts.items()
    }


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("head", [("path", "label"), ("File_Name", "Class"), ("image", "species")])
@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig"])
def test_a_table_is_read_as_spreadsheets_write_it(
    tmp_path: Path, delimiter: str, head: tuple[str, str], coding: str
) -> None:
    lines = [("id", *head), ("1", "b.png", "Königskerze"), ("", "", ""), ("2", "a, b.png", "x")]
    text = "".join(
        delimiter.join(f'"{value}"' if delimiter in value else value for value in line) + "\r\n"
        for line in lines
    )
    file = table(tmp_path, text.encode(coding), "b.png", "a, b.png")
    assert names(find_csv(file)) == {"everything": [("b.png", "Königskerze"), ("a, b.png", "x")]}


def test_the_order_of_rows_means_nothing(tmp_path: Path) -> None:
    pictures = ("a/2.png", "a/1.png", "c.png", "b.png")
    rows = [f"{name},{'x' if name < 'b' else 'y'}\n" for name in pictures]
    one, two = (
        names(find_csv(table(tmp_path, "path,label\n" + "".join(order), *pictures)))
        for order in (rows, rows[::-1])
    )
    assert one == two
    assert one["everything"] == [("1.png", "x"), ("2.png", "x"), ("b.png", "y"), ("c.png", "y")]


def test_a_column_split_makes_the_parts(tmp_path: Path) -> None:
    text = "path,label,split\na.png,x,Train\nb.png,y,dev\nc.png,y,testing\nd.png,y,training\n"
    found = find_csv(table(tmp_path, text, "a.png", "b.png", "c.png", "d.png"))
    assert names(found) == {
        "train": [("a.png", "x"), ("d.png", "y")],
        "val": [("b.png", "y")],
        "test": [("c.png", "y")],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected a line that names columns"),
        ("path,label\n", "has no rows"),
        ("file,kind\na.png,x\n", "the columns 'file', 'kind'; expected path and label, and split"),
        ("a.png,x\nb.png,y\n", "the columns 'a.png', 'x'; expected path and label"),
        ("file,image,label\na.png,a.png,x\n", "'file', 'image' may all be the path; call one path"),
        ("path,label\na.png,x\nb.png, \n", "row 3: the label is empty; fill it in"),
        ("path,label,label\na.png,x,y\n", "'label', 'label' may all be the label; call one label"),
        ("Path,label,path\na.png,x,b.png\n", "'Path', 'path' may all be the path"),
        ("path,label\n\na.png,x\n ,y\n", "row 4: the path is empty"),
        ("path,label,split\na.png,x,\n", "row 2: the split is empty"),
        ("path,label,split\na.png,x,hold\n", "row 2: the split is 'hold'; expected one of train"),
        ("path,label\na.png,x,y\n", "row 2 has 3 values, but there are 2 columns"),
        ("path,label\na.png,x\na.png,y\n", "rows 2 and 3 say of 'a.png' 'x' and 'y'"),
        ("path,label\na.png,x\n./a.png,y\n", "rows 2 and 3 say of './a.png' 'x' and 'y'"),
        ("path,label\na.png,x\nsub/../a.png,y\n", "rows 2 and 3 say of 'sub/../a.png' 'x' and"),
        ("path,label\nsub\\a.png,x\nsub/a.png,y\n", "rows 2 and 3 say of 'sub/a.png' 'x' and"),
        (
            "path,label,split\na.png,x,train\na.png,x,val\n",
            "'x' in train and 'x' in val; a picture has one label and one part",
        ),
        ("path,label\nhttps://a.org/b.png,x\n", "is an address; pictures are not fetched"),
        ("path,label,split\na.png,x,val\n", "no pictures to train on, only val"),
        ("path,label\nno.png,x\n", "no.png: there is no such file.*\nnone of the pictures is the"),
        (b"path,label\na.png,\xe9t\xe9\n", "byte 17 is not UTF-8; save the table as CSV in UTF-8"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(InvalidData, match=message):
        find_csv(table(tmp_path, text, "a.png", "b.png"))


def test_a_picture_is_the_same_by_its_absolute_path(tmp_path: Path) -> None:
    text = f"path,label,split\na.png,x,train\n{tmp_path}/a.png,x,test\n"
    with pytest.raises(InvalidData, match="a picture has one label and one part"):
        find_csv(table(tmp_path, text, "a.png"))


def test_paths_that_no_file_can_have_count_as_absent(tmp_path: Path) -> None:
    long = "x" * 300
    rows = f"a.png,x\nb.png,y\n{long}.png,x\nsub\\{long}.png,x\na.png/c.png,x\na\0b.png,x\n"
    found = find_csv(table(tmp_path, f"path,label\n{rows}", "a.png", "b.png"))
    assert names(found) == {"everything": [("a.png", "x"), ("b.png", "y")]}
    reasons = ["File name too long", *["there is no such file"] * 3]
    assert [line.rpartition(": ")[2] for line in found.bad] == reasons


@pytest.mark.timeout(30)
def test_a_table_that_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.csv")
    for file in (tmp_path / "labels.csv", Path("/dev/zero")):
        with pytest.raises(InvalidData, match="is no regular file; expected one"):
            find_csv(file)


def test_a_table_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="labels.csv: No such file"):
        find_csv(tmp_path / "labels.csv")


def test_paths_out_of_the_directory_and_repeated_rows_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tables").mkdir()
    text = f"path,label\n../a.png,x\n{tmp_path}/b.png,y\nc.png,y\nc.png,y\n"
    table(tmp_path, "", "a.png", "b.png")
    file = table(tmp_path / "tables", text, "c.png")
    assert len(find_csv(file).parts["everything"].labels) == 3
    assert capsys.readouterr().err == (
        f"{file}: 1 repeated rows are read once, 2 paths lead out of {file.parent}\n"
    )


def test_paths_as_windows_writes_them_are_found(tmp_path: Path) -> None:
    file = table(tmp_path, "path,label\nsub\\a.png,x\n", "sub/a.png")
    assert names(find_csv(file)) == {"everything": [("a.png", "x")]}


def test_rows_without_a_picture_count_as_unreadable_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_folder(tmp_path, {"a": 4, "b": 4})
    rows = "".join(f"{name}/{i}.png,{name}\n" for name in "ab" for i in range(4))
    (tmp_path / "a" / "bad.png").write_text("no picture")
    file = table(tmp_path, f"path,label\nno.png,a\n{rows}a/bad.png,a\na,b\n")
    with pytest.raises(InvalidData, match="3 images cannot be read, at most 0 may be") as refusal:
        load(f"csv:{file}")
    for line in (
        f"{file} row 2: {tmp_path}/no.png: there is no such file",
        f"{file} row 12: {tmp_path}/a: is no file",
        f"{tmp_path}/a/bad.png: not an image",
    ):
        assert line in str(refusal.value)
    data = load(f"csv:{file}", max_bad_images=3)
    assert data.bad_images == 3
    assert data.fingerprint() == load(tmp_path, max_bad_images=1).fingerprint()


def test_a_table_of_a_folder_is_the_same_data_set(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        make_folder(tmp_path / part, {"b": 3, "a": 4})
    paths = [path.relative_to(tmp_path).parts for path in tmp_path.rglob("*.png")]
    rows = "".join(f"{part}/{name}/{file},{name},{part}\n" for part, name, file in paths)
    data = load(f"csv:{table(tmp_path, f'path,label,split{chr(10)}{rows}')}")
    folder = load(tmp_path)
    assert data.fingerprint() == folder.fingerprint()
    assert (data.part("test").images_NCHW == folder.part("test").images_NCHW).all()


# Line ends and quotes inside of values are the csv module's; here it is what writes the table.
WORD = st.text(st.characters(codec="utf-8", exclude_characters="\0/\\:\r"), min_size=1, max_size=9)


@given(labels=st.lists(WORD.filter(str.strip), min_size=1, max_size=6))
def test_labels_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, labels: list[str]
) -> None:
    root = tmp_path_factory.mktemp("table")
    with (root / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label"])
        for index, label in enumerate(labels):
            (root / f"{index}.png").touch()
            writer.writerow([f"{index}.png", label])
    found = names(find_csv(root / "labels.csv"))["everything"]
    expected = {
        f"{i}.png": unicodedata.normalize("NFC", label.strip()) for i, label in enumerate(labels)
    }
    assert dict(found) == expected
