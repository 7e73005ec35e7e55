"""Data sets of Arrow and Parquet, whose rows have paths or hold the encoded pictures themselves.

`parquet:FILE` reads either. `hf:DIR` is what `save_to_disk` or `to_parquet` of Hugging Face's
`datasets` have written, or a copy of a data set from their hub; that package is not needed.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from snapensemble.contracts.errors import InvalidData
from snapensemble.contracts.process import say
from snapensemble.trainer.data.sources.cells import Cells, Cellwise, ParquetFile, StreamFile
from snapensemble.trainer.data.sources.source import Found, Labelled, PartOrAll
from snapensemble.trainer.data.sources.splits import EXPECTED, composed, part_called, part_in
from snapensemble.trainer.data.sources.table import (
    LABEL_NAMES,
    SPLIT_NAMES,
    Row,
    columns_of,
    found_in_rows,
    named,
    without_columns,
)

IMAGE_NAMES = ("image", "img", "images", "picture", "photo", "pixels", "jpg", "png")
_TEXTS = ("string", "large_string")  # how the names of types begin
_LABELS = (*_TEXTS, "int", "uint", "bool")
_UNLABELLED = -1  # in Hugging Face's data sets, where a part has no labels


def find_parquet(file: Path) -> Found:
    """Find the pictures of a Parquet file with paths, or with the pictures themselves.

    Raises:
        InvalidData: the file is no such table; see `found_in_rows` for the rest.
        InvalidConfig: pyarrow is not installed.
    """
    if file.is_dir():
        raise InvalidData(f"{file} is a directory; give hf:DIR for one with Parquet files")
    cells = ParquetFile(file)
    names = cells.schema.names
    if image_column(cells) is not None:
        return _found_in_cells(str(file), {"everything": [cells]})
    columns = columns_of(file, names)
    if columns is None:
        raise without_columns(file, names)
    if not (kind := _kind(cells, names[columns.path])).startswith(_TEXTS):
        raise InvalidData(
            f"{file}: the column {names[columns.path]!r} is {kind}; expected the paths of pictures "
            "as texts, or encoded pictures as binary or as a struct of bytes and path"
        )
    _refuse_no_label(cells, names[columns.label])
    paths, labels = cells.column(names[columns.path]), cells.column(names[columns.label])
    parts: Sequence[Any] = [None] * len(paths)
    if columns.part is not None:
        parts = [_text(value) for value in cells.column(names[columns.part])]
    rows = zip(map(_text, paths), map(_text, labels), parts, strict=True)
    return found_in_rows(file, (Row(number, *values) for number, values in enumerate(rows, 1)))


def find_hugging_face(directory: Path) -> Found:
    """Find the pictures of a data set as Hugging Face's `datasets` keeps it.

    That is what `save_to_disk` has written, of a Dataset or of a DatasetDict, or a directory of
    Parquet files. The columns are guessed from types and names, and said.

    Raises:
        InvalidData: the directory holds no such data set, or it is not clear which columns are
            meant.
        InvalidConfig: pyarrow is not installed.
    """
    if (directory / "dataset_dict.json").is_file():
        file = directory / "dataset_dict.json"
        splits = _names(file, _json(file).get("splits", []))
        parts: dict[PartOrAll, str] = {}
        for name in splits:
            part = _part(directory, name)
            if parts.setdefault(part, name) != name:
                raise InvalidData(
                    f"{directory}: {parts[part]!r} and {name!r} both mean the {part} part; save a "
                    "DatasetDict that has one of them, or both as one"
                )
        files = {part: _saved(directory / name) for part, name in parts.items()}
        return _found_in_cells(str(directory), files)
    if (directory / "state.json").is_file():
        return _found_in_cells(str(directory), {"everything": _saved(directory)})
    found = sorted(directory.rglob("*.parquet"))
    if not found:
        raise InvalidData(
            f"{directory} holds neither dataset_dict.json nor state.json, which save_to_disk of "
            "Hugging Face's datasets writes, nor *.parquet"
        )
    return _found_in_cells(str(directory), _by_part(directory, found))


def _saved(directory: Path) -> list[Cells]:
    """The files of a Dataset that was saved, in its order."""
    file = directory / "state.json"
    listed = _json(file).get("_data_files", [])
    is_list = isinstance(listed, list) and all(isinstance(each, dict) for each in listed)
    names = _names(file, [each.get("filename") for each in listed] if is_list else None)
    return [StreamFile(directory / name) for name in names]


def _by_part(directory: Path, files: list[Path]) -> dict[PartOrAll, list[Cells]]:
    """Parquet files by the part that their names, or those of their directories, tell."""
    parts: dict[PartOrAll, list[Path]] = {}
    for file in files:
        inner = file.relative_to(directory)
        told = (part_in(name) for name in (inner.stem, *reversed(inner.parent.parts)))
        part: PartOrAll = next((each for each in told if each), "everything")
        parts.setdefault(part, []).append(file)
    if "everything" in parts and len(parts) > 1:
        raise InvalidData(
            f"{directory}: the name of {parts['everything'][0]} tells no part, those of others do; "
            f"expected one of {EXPECTED} in each name, or in none"
        )
    return {part: [ParquetFile(file) for file in found] for part, found in parts.items()}


def _found_in_cells(place: str, files: dict[PartOrAll, list[Cells]]) -> Found:
    """The pictures of the rows of these files.

    Raises:
        InvalidData: columns are missing or not clear, a label is, or there is nothing to train on.
    """
    flat = [(part, cells) for part, found in files.items() for cells in found]
    if not flat:
        raise InvalidData(f"{place} has no rows; expected one for each picture")
    images = [image_column(cells) or _without_image(cells) for _, cells in flat]
    labels = [_label_column(cells, image) for (_, cells), image in zip(flat, images, strict=True)]
    say(f"{place}: pictures from column {images[0]!r}, labels from column {labels[0]!r}")
    files_of_all = [cells for _, cells in flat]
    values = [cells.column(name) for cells, name in zip(files_of_all, labels, strict=True)]
    classes, index_of = _classes(place, files_of_all, labels, values)
    taken: dict[PartOrAll, tuple[list[tuple[int, int]], list[int]]] = {}
    for number, ((of_file, cells), column) in enumerate(zip(flat, values, strict=True)):
        for part, found in _rows_by_part(of_file, cells, len(column)).items():
            if part == "test" and {column[row] for row in found} == {_UNLABELLED}:
                alone = "; it is" if part == of_file else " in its test part, which is"
                say(f"{cells.file} has no labels{alone} left out")
                continue
            rows, indices = taken.setdefault(part, ([], []))
            rows += [(number, row) for row in found]
            indices += [index_of(column[row], f"{cells.file} row {row}") for row in found]
    parts = {
        part: Labelled(Cellwise(files_of_all, images, rows), indices)
        for part, (rows, indices) in taken.items()
        if rows
    }
    if not {"train", "everything"} & parts.keys():
        raise InvalidData(f"{place} has no rows to train on; expected a part train, or no parts")
    if "everything" in parts and len(parts) > 1:
        raise InvalidData(
            f"{place}: some rows are of no part, those of other files are; expected a "
            "column split in all files, or in none"
        )
    return Found(place, classes, parts)


def _rows_by_part(of_file: PartOrAll, cells: Cells, count: int) -> dict[PartOrAll, Sequence[int]]:
    """The rows of each part; a column tells it as in a table of paths, if no file's name does.

    Raises:
        InvalidData: the column is empty in a row, or has an unknown word.
    """
    names = cells.schema.names
    column = named(cells.file, names, SPLIT_NAMES) if of_file == "everything" else None
    if column is None:
        return {of_file: range(count)}
    rows: dict[PartOrAll, list[int]] = {}
    for row, value in enumerate(cells.column(names[column])):
        if (part := part_called(_text(value))) is None:
            raise InvalidData(
                f"{cells.file} row {row}: the column {names[column]!r} is {_text(value)!r}; "
                f"expected one of {EXPECTED}, or no column of this name"
            )
        rows.setdefault(part, []).append(row)
    return dict(rows)


def _classes(
    place: str, files: Sequence[Cells], columns: Sequence[str], values: list[list[Any]]
) -> tuple[tuple[str, ...], Callable[[Any, str], int]]:
    """The names of the classes, and what gives a value's index."""
    if (classes := _declared_classes(files, columns)) is not None:
        index_of = {index: index for index in range(len(classes))}
    else:
        distinct = {value for column in values for value in column if _text(value)}
        order = sorted(distinct, key=lambda value: (isinstance(value, str), value))
        classes = tuple(dict.fromkeys(_text(value) for value in order))
        index_of = {value: classes.index(_text(value)) for value in order}

    def index(value: Any, where: str) -> int:
        if value not in index_of:
            is_empty = value == _UNLABELLED or not _text(value)
            what = "is empty" if is_empty else f"is {value!r}"
            raise InvalidData(
                f"{where}: the label {what}; expected one of the {len(classes)} classes of {place}"
            )
        return index_of[value]

    return classes, index


def _declared_classes(files: Sequence[Cells], columns: Sequence[str]) -> tuple[str, ...] | None:
    """The names that stand for the numbers of a ClassLabel; None if no file has such a column.

    Raises:
        InvalidData: a number has one name in a file and another one in another.
    """
    found: dict[tuple[str, ...], Path] = {}
    for cells, column in zip(files, columns, strict=True):
        feature = _features(cells).get(column, {})
        if isinstance(names := feature.get("names"), list) and feature.get("_type") == "ClassLabel":
            found.setdefault(tuple(composed(str(name)) for name in names), cells.file)
    if len(found) > 1:
        (first, file), (second, other), *_ = found.items()
        pairs = enumerate(itertools.zip_longest(first, second))
        number, (one, another) = next(each for each in pairs if len(set(each[1])) > 1)
        raise InvalidData(
            f"label {number} is {one!r} in {file}, and {another!r} in {other}; cast the column to "
            "the same ClassLabel in all files, or write the labels as texts"
        )
    return next(iter(found), None)


def image_column(cells: Cells) -> str | None:
    """The column that holds pictures, by its declared type, else by what it is made of.

    Raises:
        InvalidData: several do, and none has a plain name.
    """
    features = _features(cells)
    declared: list[str] = [
        name for name in cells.schema.names if features.get(name, {}).get("_type") == "Image"
    ]
    holding: list[str] = [field.name for field in cells.schema if _holds_bytes(field.type)]
    candidates = declared or holding
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    place = named(cells.file, candidates, IMAGE_NAMES)
    if place is None:
        raise InvalidData(
            f"{cells.file}: the columns {', '.join(map(repr, candidates))} hold pictures; "
            "call the one to learn from image"
        )
    return candidates[place]


def _label_column(cells: Cells, image: str) -> str:
    """The column with labels: declared as classes, or called as labels are."""
    features = _features(cells)
    declared: list[str] = [
        name for name in cells.schema.names if features.get(name, {}).get("_type") == "ClassLabel"
    ]
    names: list[str] = [each for each in cells.schema.names if each != image]
    place = named(cells.file, declared or names, LABEL_NAMES)
    if place is not None:
        name = (declared or names)[place]
    elif len(declared) == 1:
        name = declared[0]
    else:
        raise InvalidData(
            f"{cells.file} has the columns {', '.join(map(repr, cells.schema.names))}; which one "
            "has the labels? call it label"
        )
    _refuse_no_label(cells, name)
    return name


def _refuse_no_label(cells: Cells, name: str) -> None:
    """Raise InvalidData where the values of a column cannot be labels."""
    if not (kind := _kind(cells, name)).startswith(_LABELS):
        raise InvalidData(
            f"{cells.file}: the column {name!r} is {kind}; expected one text or whole number for "
            "each picture"
        )


def _kind(cells: Cells, name: str) -> str:
    """The type of a column's values, of which a dictionary holds each once."""
    kind = cells.schema.field(name).type
    return str(kind.value_type if str(kind).startswith("dictionary") else kind)


def _without_image(cells: Cells) -> str:
    raise InvalidData(
        f"{cells.file} has the columns {', '.join(map(repr, cells.schema.names))}; expected one "
        "with encoded pictures, as bytes or as {bytes, path}; for paths of files give parquet:FILE"
    )


def _holds_bytes(kind: Any) -> bool:
    text = str(kind)
    return text in ("binary", "large_binary") or (
        text.startswith("struct<") and "bytes: " in text and "binary" in text
    )


def _features(cells: Cells) -> dict[str, dict[str, Any]]:
    """What Hugging Face's `datasets` has noted of the columns, if it has."""
    try:
        noted = json.loads((cells.schema.metadata or {})[b"huggingface"])
        features = noted["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {name: noted for name, noted in features.items() if isinstance(noted, dict)}


def _part(directory: Path, name: str) -> PartOrAll:
    part = part_called(name) or part_in(name)
    if part is None:
        raise InvalidData(f"{directory}: the part {name!r} is unknown; expected one of {EXPECTED}")
    return part


def _text(value: Any) -> str:
    return "" if value is None else composed(str(value).strip())


def _names(file: Path, found: Any) -> list[str]:
    """What was found in a file that `datasets` writes, if it is a list of names."""
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise InvalidData(f"{file} does not list names as save_to_disk of `datasets` does")
    return found


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidData(f"{file}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise InvalidData(f"{file}: found no JSON object")
    return content
