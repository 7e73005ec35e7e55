import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from snapensemble.contracts.errors import InvalidData, InvalidImage
from snapensemble.trainer.data.sources.arrow import find_hugging_face, find_parquet
from snapensemble.trainer.data.sources.cells import ParquetFile, StreamFile
from tests.factories import encoded, picture
from tests.trainer.folders import load, make_folder

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ["a", "b"]


def folder(root: Path, parts: Sequence[str] = ("train", "val", "test")) -> Path:
    for part in parts:
        make_folder(root / part, {"a": 4, "b": 3})
    return root


def rows(root: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The pictures of CLASS/* and the names of their classes, in the order of a folder."""
    paths = sorted(root.rglob("*.png"))
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    return images, [path.parent.name for path in paths]


def declared(root: Path) -> Any:
    """A table as Hugging Face's `datasets` keeps it, with numbers for labels."""
    images, labels = rows(root)
    features = {
        "image": {"_type": "Image"},
        "label": {"names": NAMES, "_type": "ClassLabel"},
    }
    schema = pa.schema(
        [("image", IMAGE), ("label", pa.int64())],
        metadata={b"huggingface": json.dumps({"info": {"features": features}}).encode()},
    )
    numbers = [NAMES.index(label) for label in labels]
    return pa.table({"image": images, "label": numbers}, schema=schema)


def save(table: Any, directory: Path, files: int = 2) -> None:
    """As `Dataset.save_to_disk` does."""
    directory.mkdir(parents=True)
    step = -(-len(table) // files)
    names = [f"data-{i:05d}-of-{files:05d}.arrow" for i in range(files)]
    for i, name in enumerate(names):
        with (
            pa.OSFile(str(directory / name), "wb") as opened,
            pa.ipc.new_stream(opened, table.schema) as stream,
        ):
            stream.write_table(table.slice(i * step, step))
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (directory / "state.json").write_text(json.dumps(state))


def test_a_saved_data_set_with_parts_is_that_of_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, saved = folder(tmp_path / "folder"), tmp_path / "saved"
    for part, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        save(declared(root / part), saved / name)
    (saved / "dataset_dict.json").write_text('{"splits": ["train", "validation", "test"]}')
    data = load(f"hf:{saved}")
    assert data.classes == ("a", "b") and len(data.part("test")) == 7
    assert data.fingerprint() == load(root).fingerprint()
    said = capsys.readouterr().err
    assert f"{saved}: pictures from column 'image', labels from column 'label'\n" in said


def test_a_saved_data_set_with_two_names_for_a_part_is_refused(tmp_path: Path) -> None:
    table = declared(make_folder(tmp_path / "folder", {"a": 4, "b": 3}))
    for name in ("train", "train_extra"):
        save(table, tmp_path / "saved" / name)
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "train_extra"]}')
    with pytest.raises(InvalidData, match="'train' and 'train_extra' both mean the train part; sa"):
        find_hugging_face(tmp_path / "saved")


def test_a_saved_data_set_in_one_piece_is_divided_as_a_folder_is(tmp_path: Path) -> None:
    make_folder(tmp_path / "folder", {"a": 9, "b": 8})
    save(declared(tmp_path / "folder"), tmp_path / "saved")
    data = load(f"hf:{tmp_path / 'saved'}")
    assert data.fingerprint() == load(tmp_path / "folder").fingerprint()
    assert data.test is not None


@pytest.mark.parametrize(
    "form", ["data/{}-00000-of-00001.parquet", "{}/0000.parquet", "{}.parquet"]
)
def test_parquet_files_are_parts_by_their_names(tmp_path: Path, form: str) -> None:
    root, copy = folder(tmp_path / "folder"), tmp_path / "copy"
    for part, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        file = copy / form.format(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(declared(root / part), file)
    assert load(f"hf:{copy}").fingerprint() == load(root).fingerprint()


def test_parquet_files_of_which_one_tells_no_part_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "folder", ["train"])
    for name in ("train", "more"):
        pq.write_table(declared(root / "train"), tmp_path / f"{name}.parquet")
    with pytest.raises(InvalidData, match=r"more.parquet tells no part, those of others do"):
        find_hugging_face(tmp_path)


@pytest.mark.parametrize("kind", ["string", "int32", "dictionary"])
def test_columns_without_declared_types_are_guessed(tmp_path: Path, kind: str) -> None:
    images, labels = rows(make_folder(tmp_path / "folder", {"a": 4, "b": 3}))
    values = {
        "string": pa.array(labels),
        "int32": pa.array([3 if label == "a" else 12 for label in labels], pa.int32()),
        "dictionary": pa.array(labels).dictionary_encode(),
    }[kind]
    plain = [each["bytes"] for each in images]
    pq.write_table(
        pa.table({"id": range(7), "jpg": plain, "Class": values}), tmp_path / "x.parquet"
    )
    data = load(f"parquet:{tmp_path / 'x.parquet'}")
    assert data.classes == (("3", "12") if kind == "int32" else ("a", "b"))
    images_NCHW = load(tmp_path / "folder").train.images_NCHW
    assert (data.train.images_NCHW == images_NCHW).all()


def test_a_parquet_file_of_paths_is_as_a_csv_file(tmp_path: Path) -> None:
    root = folder(tmp_path)
    paths = [path.relative_to(root) for path in sorted(root.rglob("*.png"), reverse=True)]
    columns = {
        "path": [str(path) for path in paths],
        "label": pa.array([path.parts[1] for path in paths]).dictionary_encode(),
        "split": [path.parts[0] for path in paths],
    }
    pq.write_table(pa.table(columns), root / "labels.parquet")
    data = load(f"parquet:{root / 'labels.parquet'}")
    (root / "labels.parquet").unlink()
    assert data.fingerprint() == load(root).fingerprint()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"file": ["a"], "kind": ["x"]}, "the columns 'file', 'kind'; expected path and label"),
        ({"path": ["a", "b"], "label": ["x", None]}, "row 2: the label is empty"),
        ({"path": ["a"], "label": ["x"], "split": [None]}, "row 1: the split is empty"),
        ({"image": [b"x"], "n": [1]}, "which one has the labels\\? call it label"),
        ({"one": [b"x"], "two": [b"x"], "label": [1]}, "'one', 'two' hold pictures; call the one"),
        ({"image": [b"x"], "label": [[1]]}, "'label' is list.*expected one text or whole number"),
        ({"image": [b"x"], "label": [0.5]}, "'label' is double"),
        ({"image": [b"x", b"y"], "label": [1, None]}, "row 1: the label is empty; expected one of"),
        ({"image": [b"x", b"y"], "label": ["a", " "]}, "row 1: the label is empty; expected one"),
        ({"image": [b"x"], "label": pa.array([b"a"]).dictionary_encode()}, "'label' is binary"),
        ({"path": ["a"], "label": [["x"]]}, "'label' is list.*expected one text or whole number"),
        ({"path": ["a"], "label": [0.5]}, "'label' is double"),
        ({"image": [[b"x"]], "label": ["a"]}, "'image' is list.*expected the paths of pictures as"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(InvalidData, match=message):
        find_parquet(tmp_path / "x.parquet")


def test_a_label_without_a_name_is_refused_and_a_test_part_without_labels_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = declared(make_folder(tmp_path / "folder", {"a": 4, "b": 3}))
    without = table.set_column(1, table.schema.field("label"), pa.array([-1] * 7))
    pq.write_table(table, tmp_path / "train.parquet")
    pq.write_table(without, tmp_path / "test.parquet")
    assert list(find_hugging_face(tmp_path).parts) == ["train"]
    assert "test.parquet has no labels; it is left out" in capsys.readouterr().err
    pq.write_table(without, tmp_path / "train.parquet")
    with pytest.raises(InvalidData, match=r"train.parquet row 0: the label is empty; .* 2 classes"):
        find_hugging_face(tmp_path)


def test_names_that_files_give_one_label_in_two_ways_are_refused(tmp_path: Path) -> None:
    table = declared(make_folder(tmp_path / "folder", {"a": 4, "b": 3}))
    noted = table.schema.metadata[b"huggingface"].replace(b'["a", "b"]', b'["b", "a"]')
    other = table.replace_schema_metadata({"huggingface": noted})
    pq.write_table(table, tmp_path / "train.parquet")
    pq.write_table(other, tmp_path / "test.parquet")
    expected = r"label 0 is 'b' in .*test.parquet, and 'a' in .*train.parquet; cast the column"
    with pytest.raises(InvalidData, match=expected):
        find_hugging_face(tmp_path)


def test_files_without_names_for_labels_have_those_of_the_others(tmp_path: Path) -> None:
    table = declared(make_folder(tmp_path / "folder", {"a": 4, "b": 3}))
    pq.write_table(table, tmp_path / "train.parquet")
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "test.parquet")
    assert find_hugging_face(tmp_path).classes == ("a", "b")


def test_a_column_split_beside_encoded_pictures_makes_the_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder(tmp_path / "folder")
    parts = {"train": "Train", "val": "validation", "test": "testing"}
    tables = [
        declared(root / part).append_column("split", pa.array([word] * 7))
        for part, word in parts.items()
    ]
    table = pa.concat_tables(reversed(tables))
    pq.write_table(table, tmp_path / "all.parquet")
    data = load(f"parquet:{tmp_path / 'all.parquet'}")
    assert data.fingerprint() == load(root).fingerprint() and len(data.part("test")) == 7
    save(table, tmp_path / "saved")
    assert load(f"hf:{tmp_path / 'saved'}").fingerprint() == data.fingerprint()
    unlabelled = table.set_column(1, table.schema.field("label"), pa.array([-1] * 7 + [0] * 14))
    pq.write_table(unlabelled, tmp_path / "all.parquet")
    assert list(find_parquet(tmp_path / "all.parquet").parts) == ["val", "train"]
    assert "all.parquet has no labels in its test part" in capsys.readouterr().err


def test_a_column_split_that_tells_no_part_is_refused(tmp_path: Path) -> None:
    table = declared(make_folder(tmp_path / "folder", {"a": 4, "b": 3}))
    told = table.append_column("split", pa.array(["train"] * 6 + ["fold3"]))
    pq.write_table(told, tmp_path / "one.parquet")
    with pytest.raises(InvalidData, match=r"one.parquet row 6: the column 'split' is 'fold3'; exp"):
        find_parquet(tmp_path / "one.parquet")
    pq.write_table(told.slice(0, 6), tmp_path / "one.parquet")
    pq.write_table(table, tmp_path / "two.parquet")
    with pytest.raises(InvalidData, match=r"some rows are of no part, those of other files are"):
        find_hugging_face(tmp_path)


@pytest.mark.parametrize("name", ["x.parquet", "saved/data-00000-of-00001.arrow"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text(
        '{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}'
    )
    (tmp_path / name).write_bytes(b"no table at all")
    spec = f"hf:{tmp_path / 'saved'}" if name.startswith("saved") else f"parquet:{tmp_path / name}"
    with pytest.raises(InvalidData, match=f"{name}: cannot be read"):
        load(spec)


@pytest.mark.parametrize("kind", [ParquetFile, StreamFile])
def test_wherever_a_file_is_damaged_it_is_refused_or_read(
    tmp_path: Path, kind: type[ParquetFile] | type[StreamFile]
) -> None:
    """Not even by offsets that lead out of it, or by fewer rows than it says to have."""
    file, table = tmp_path / "x", pa.table({"image": [bytes(40)] * 9, "label": NAMES[:1] * 9})
    if kind is ParquetFile:
        pq.write_table(table, file)
    else:
        with pa.OSFile(str(file), "wb") as opened, pa.ipc.new_stream(opened, table.schema) as out:
            out.write_table(table)
    whole = file.read_bytes()
    for place in range(0, len(whole), 4):
        file.write_bytes(whole[:place] + b"\xff\xff\x81\x01" + whole[place + 4 :])
        with contextlib.suppress(InvalidData, InvalidImage):
            cells = kind(file)
            for name in cells.schema.names:
                cells.column(name)
            cells.cell("image", 8)


@pytest.mark.parametrize("noted", ["[]", '{"label": []}', '{"label": 5, "image": ["_type"]}'])
def test_notes_of_columns_that_are_none_are_passed_over(tmp_path: Path, noted: str) -> None:
    notes = f'{{"info": {{"features": {noted}}}}}'.encode()
    table = pa.table({"image": [b"x", b"y"], "label": NAMES})
    pq.write_table(table.replace_schema_metadata({b"huggingface": notes}), tmp_path / "x.parquet")
    assert find_parquet(tmp_path / "x.parquet").classes == ("a", "b")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("state.json", '{"_data_files": [1]}'),
        ("state.json", '{"_data_files": {"filename": "x"}}'),
        ("state.json", '{"_data_files": [{"filename": null}]}'),
        ("dataset_dict.json", '{"splits": [1]}'),
        ("dataset_dict.json", '{"splits": "train"}'),
        ("dataset_dict.json", '{"splits": ' + "[" * 100_000),
    ],
)
def test_a_damaged_list_of_files_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidData, match=f"{name}(: cannot be read| does not list names)"):
        find_hugging_face(tmp_path)


@pytest.mark.timeout(30)
def test_a_table_that_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.parquet")
    with pytest.raises(InvalidData, match="x.parquet is no regular file"):
        load(f"parquet:{tmp_path / 'x.parquet'}")


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("path", "reason"),
    [("fifo", "is no regular file"), ("/dev/zero", "is no regular file"), ("a\0b", "null byte")],
)
def test_a_cell_that_names_no_regular_file_is_a_bad_picture(
    tmp_path: Path, path: str, reason: str
) -> None:
    os.mkfifo(tmp_path / "fifo")
    images, labels = rows(make_folder(tmp_path / "folder", {"a": 5, "b": 5}))
    images[3] = {"bytes": None, "path": path}
    table = pa.table({"image": pa.array(images, IMAGE), "label": labels})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(InvalidData, match=f"x.parquet row 3: .*{reason}"):
        load(f"parquet:{tmp_path / 'x.parquet'}")


def test_a_directory_without_a_data_set_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"neither dataset_dict.json nor state.json"):
        find_hugging_face(tmp_path)


def test_bad_rows_are_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = rows(make_folder(tmp_path / "folder", {"a": 5, "b": 5}))
    images[3], images[7] = {"bytes": b"no picture", "path": "x"}, {"bytes": None, "path": None}
    images[8] = {"bytes": None, "path": "folder/b/3.png"}
    table = pa.table({"image": pa.array(images, IMAGE), "label": labels})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(InvalidData, match="2 images cannot be read"):
        load(f"parquet:{tmp_path / 'x.parquet'}")
    data = load(f"parquet:{tmp_path / 'x.parquet'}", max_bad_images=2)
    said = capsys.readouterr().err
    assert f"{tmp_path}/x.parquet row 3: not an image" in said
    assert f"{tmp_path}/x.parquet row 7: the cell is empty" in said
    for name in ("a/3", "b/2"):
        (tmp_path / "folder" / f"{name}.png").unlink()
    assert data.fingerprint() == load(tmp_path / "folder").fingerprint()


def test_a_changed_file_is_decoded_anew_and_new_labels_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNAPENSEMBLE_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "x.parquet"
    fingerprints = set()
    for seed in (0, 50):
        images = [encoded(picture(seed + i)) for i in range(12)]
        pq.write_table(pa.table({"image": images, "label": ["a", "b"] * 6}), file)
        fingerprints.add(load(f"parquet:{file}").fingerprint())
        fingerprints.add(load(f"parquet:{file}").fingerprint())
    assert len(fingerprints) == 2 and len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("kind", ["parquet", "hf"])
def test_a_changed_file_that_a_cell_names_is_decoded_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("SNAPENSEMBLE_CACHE", str(tmp_path / "cache"))
    root = make_folder(tmp_path / "saved" / "folder", {"a": 5, "b": 5})
    images, labels = rows(root)
    for image, path in zip(images[1:], sorted(root.rglob("*.png"))[1:], strict=True):
        image |= {"bytes": None, "path": str(path.relative_to(tmp_path / "saved"))}
    table = pa.table({"image": pa.array(images, IMAGE), "label": labels})
    file = tmp_path / "saved" / "x.parquet"
    if kind == "parquet":
        pq.write_table(table, file)
    else:
        save(table, tmp_path / "arrow")
        shutil.copytree(tmp_path / "arrow", tmp_path / "saved", dirs_exist_ok=True)
    spec = f"{kind}:{file if kind == 'parquet' else file.parent}"
    assert load(spec).fingerprint() == load(root).fingerprint()
    (root / "a" / "3.png").write_bytes(encoded(picture(77)))
    assert load(spec).fingerprint() == load(root).fingerprint()


@pytest.mark.parametrize("group", [7, 100, 1000])
def test_rows_are_found_in_any_order_by_any_thread_with_few_in_memory(
    tmp_path: Path, group: int
) -> None:
    cells = [f"{i}".encode() for i in range(500)]
    pq.write_table(pa.table({"image": cells}), tmp_path / "x.parquet", row_group_size=group)
    file = ParquetFile(tmp_path / "x.parquet")
    order = [*range(500), *range(499, 0, -50), 3, 499, 0]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda row: file.cell("image", row), order))
    assert found == [cells[row] for row in order]
    assert sum(map(len, file._batches.values())) < 200


def test_a_row_that_is_cut_off_is_a_bad_picture(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": [bytes(1000)] * 50}), file, compression="gzip")
    data = bytearray(file.read_bytes())
    data[4:100] = bytes(96)
    file.write_bytes(data)
    with pytest.raises(InvalidImage, match="the row cannot be read"):
        ParquetFile(file).cell("image", 0)
