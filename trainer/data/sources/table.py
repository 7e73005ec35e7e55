"""Tables of pictures: a row has the path of a picture, its label and, if it likes, its part."""

import csv
import io
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from snapensemble.contracts.errors import InvalidData
from snapensemble.contracts.process import say
from snapensemble.trainer.data.sources.source import (
    Files,
    Found,
    Labelled,
    PartOrAll,
    regular,
)
from snapensemble.trainer.data.sources.splits import EXPECTED, composed, part_called

# What people call the columns; the first name of each wins over the others.
PATH_NAMES = (
    *("path", "file", "filename", "file_name", "filepath", "file_path"),
    *("image", "image_path", "img", "img_path", "picture"),
)
LABEL_NAMES = ("label", "class", "class_name", "category", "target", "species", "labels")
SPLIT_NAMES = ("split", "part", "subset", "set", "data_set")
_DELIMITERS = ",;\t|"
_MOST_NAMED = 5


class Row(NamedTuple):
    """A row with its number in the file, counted from 1 with the head."""

    number: int
    path: str
    label: str
    part: str | None  # None where the table has no such column


class Columns(NamedTuple):
    """The places of the columns that are read."""

    path: int
    label: int
    part: int | None


def find_csv(file: Path) -> Found:
    """Find the pictures of a table in a text file, with one line for the names of its columns.

    Columns are separated by commas, semicolons, tabs or bars, whichever the first line has.

    Raises:
        InvalidData: the file is no such table; see `found_in_rows` for the rest.
    """
    try:
        text = regular(file).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InvalidData(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidData(
            f"{file}: byte {error.start:,} is not UTF-8; save the table as CSV in UTF-8"
        ) from error
    return found_in_rows(file, _csv_rows(file, text))


def found_in_rows(file: Path, rows: Iterable[Row]) -> Found:
    """The pictures of a table's rows, by class and path, so that the order of rows is nothing.

    Paths are relative to the table's directory. They may lead out of it, and be absolute, as in
    tables that are written where pictures cannot be moved; how many do is said.

    Args:
        file: where the table lies.
        rows: of it.

    Raises:
        InvalidData: a label or a part is empty, a part has an unknown name, a picture has two
            labels or is in two parts, or there are no rows.
    """
    known: dict[str, Row] = {}  # by the picture's place, however the row writes it
    repeated = outside = 0
    for row in rows:
        _refuse_incomplete(file, row)
        place = os.path.abspath(_place(file, row.path))  # noqa: PTH100 (Path.absolute keeps "..")
        first = known.setdefault(place, row)
        if first is not row:
            if (first.label, first.part) != (row.label, row.part):
                raise InvalidData(
                    f"{file}: rows {first.number} and {row.number} say of {row.path!r} "
                    f"{_said(first)} and {_said(row)}; a picture has one label and one part"
                )
            repeated += 1
    if not known:
        raise InvalidData(f"{file} has no rows; expected one for each picture")
    classes = tuple(sorted({row.label for row in known.values()}))
    index_of = {name: index for index, name in enumerate(classes)}
    parts: dict[PartOrAll, list[tuple[int, Path]]] = {}
    bad = []
    for row in known.values():
        path = _place(file, row.path)
        outside += PurePath(row.path).is_absolute() or ".." in PurePath(row.path).parts
        part: PartOrAll = "everything" if row.part is None else part_called(row.part) or "train"
        if what := _why_no_file(path):
            bad.append(f"{file} row {row.number}: {path}: {what}")
        else:
            parts.setdefault(part, []).append((index_of[row.label], path))
    _say_odd(file, repeated, outside)
    _refuse_no_part(file, parts, bad)
    order: list[PartOrAll] = ["everything", "train", "val", "test"]
    labelled = {name: _sorted(parts[name]) for name in order if name in parts}
    return Found(str(file), classes, labelled, bad)


def columns_of(file: Path, names: Sequence[str]) -> Columns | None:
    """Where the columns are; None if path or label is not among these names.

    Raises:
        InvalidData: several columns could be meant.
    """
    path, label = named(file, names, PATH_NAMES), named(file, names, LABEL_NAMES)
    if path is None or label is None:
        return None
    return Columns(path, label, named(file, names, SPLIT_NAMES))


def named(file: Path, names: Sequence[str], wanted: Sequence[str]) -> int | None:
    """The place of the column with one of the wanted names, in any case; None if there is none.

    Raises:
        InvalidData: several columns have the first name, or none has it and several another one.
    """
    plain = [name.strip().casefold() for name in names]
    found = [place for place, name in enumerate(plain) if name == wanted[0]]
    found = found or [place for place, name in enumerate(plain) if name in wanted]
    if len(found) > 1:
        candidates = ", ".join(repr(names[place]) for place in found)
        raise InvalidData(
            f"{file}: {candidates} may all be the {wanted[0]}; call one {wanted[0]}, and no other"
        )
    return found[0] if found else None


def without_columns(file: Path, names: Sequence[str]) -> InvalidData:
    """The error that a table does not have the columns it needs."""
    return InvalidData(
        f"{file} has the columns {', '.join(repr(name) for name in names)}; expected path and "
        "label, and split if it says what trains, validates and tests"
    )


def _csv_rows(file: Path, text: str) -> Iterator[Row]:
    lines = list(io.StringIO(text, newline=""))
    first = next((number for number, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise InvalidData(f"{file} is empty; expected a line that names columns, path and label")
    heads = {each: next(csv.reader([lines[first]], delimiter=each)) for each in _DELIMITERS}
    for delimiter, names in heads.items():
        if columns := columns_of(file, names):
            reader = csv.reader(lines[first:], delimiter=delimiter)
            try:
                yield from _rows(file, reader, columns, len(names), first)
            except csv.Error as error:
                raise InvalidData(f"{file} row {first + reader.line_num}: {error}") from error
            return
    raise without_columns(file, max(heads.values(), key=len))


def _rows(
    file: Path, reader: Iterator[list[str]], columns: Columns, width: int, before: int
) -> Iterator[Row]:
    next(reader)
    for number, values in enumerate(reader, before + 2):
        if not any(values):  # an empty line
            continue
        if len(values) != width:
            raise InvalidData(
                f"{file} row {number} has {len(values)} values, but there are {width} columns; "
                "put values that hold the separator into quotes"
            )
        part = None if columns.part is None else values[columns.part].strip()
        label = composed(values[columns.label].strip())
        yield Row(number, values[columns.path].strip(), label, part)


def _refuse_incomplete(file: Path, row: Row) -> None:
    for name, value in (("path", row.path), ("label", row.label), ("split", row.part)):
        if value == "":
            raise InvalidData(
                f"{file} row {row.number}: the {name} is empty; fill it in, or remove the row"
            )
    if row.part is not None and part_called(row.part) is None:
        raise InvalidData(
            f"{file} row {row.number}: the split is {row.part!r}; expected one of {EXPECTED}"
        )
    if "://" in row.path:
        raise InvalidData(
            f"{file} row {row.number}: {row.path!r} is an address; pictures are not fetched, "
            "expected the path of a file"
        )


def _refuse_no_part(
    file: Path, parts: dict[PartOrAll, list[tuple[int, Path]]], bad: list[str]
) -> None:
    if not parts:
        more = f"\nand {len(bad) - _MOST_NAMED:,} more" if len(bad) > _MOST_NAMED else ""
        raise InvalidData(
            "\n".join(bad[:_MOST_NAMED])
            + f"{more}\nnone of the pictures is there; paths are relative to {file.parent}"
        )
    if "everything" not in parts and "train" not in parts:
        raise InvalidData(
            f"{file} has no pictures to train on, only {', '.join(parts)}; expected rows whose "
            "split is train, or no column split"
        )


def _say_odd(file: Path, repeated: int, outside: int) -> None:
    counts = Counter(
        {"repeated rows are read once": repeated, f"paths lead out of {file.parent}": outside}
    )
    if said := [f"{count:,} {what}" for what, count in counts.items() if count]:
        say(f"{file}: {', '.join(said)}")


def _place(file: Path, text: str) -> Path:
    path = file.parent / text
    if "\\" in text and not os.path.lexists(path):  # written on Windows
        return file.parent / text.replace("\\", "/")
    return path


def _why_no_file(path: Path) -> str | None:
    """What is wrong with a picture's path; None if a file is there."""
    try:
        return None if stat.S_ISREG(path.stat().st_mode) else "is no file"
    except ValueError:  # a character that no path has
        return "there is no such file"
    except OSError as error:
        is_absent = isinstance(error, FileNotFoundError | NotADirectoryError)
        return "there is no such file" if is_absent else str(error.strerror)


def _said(row: Row) -> str:
    return repr(row.label) if row.part is None else f"{row.label!r} in {row.part}"


def _sorted(pictures: list[tuple[int, Path]]) -> Labelled:
    pictures.sort()
    return Labelled(Files([path for _, path in pictures]), [label for label, _ in pictures])
