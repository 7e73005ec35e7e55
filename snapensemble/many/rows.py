"""What is written about a picture: the columns, and a row as a line of CSV or JSON. Pure.

The columns are the same in all formats. A CSV file has lists as JSON in a cell.
"""

import codecs
import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
Format = Callable[[Row], bytes]
PLACES = {"move": "moved_to", "link": "linked_to"}
FIGURES = ("class", "index", "probability")
MAX_NAME_BYTES = 200  # of a folder for a class
REST = ("entropy_nats", "disagreement_nats", "members_used")
_ESCAPE = re.compile(r"\\(?:\\|[nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
_BEGINS_A_FORMULA = ("=", "+", "-", "@")


def columns(
    *, top: bool, probabilities: bool, promises: Sequence[str], place: str | None
) -> tuple[str, ...]:
    """The names of the columns, in their order."""
    return (
        "path",
        *FIGURES,
        *(["top"] if top else []),
        *(["probabilities"] if probabilities else []),
        *REST,
        *promises,
        *([PLACES[place]] if place else []),
        "error",
    )


def answered(path: str, prediction: Mapping[str, Any], place: Mapping[str, str]) -> Row:
    """The row of a picture that was answered.

    Args:
        path: where the picture was found.
        prediction: as the server gives it.
        place: the column and the value that say where it was moved or linked to, if it was.
    """
    row = {"path": path_text(path), **prediction, **prediction["uncertainty"]}
    row |= prediction.get("novelty", {})
    if (promised := prediction.get("prediction_set")) is not None:
        row["prediction_set"] = promised["classes"]
    return row | {column: path_text(target) for column, target in place.items()}


def unreadable(path: str, error: Exception) -> Row:
    """The row of a picture that has no answer."""
    return {"path": path_text(path), "error": str(error)}


def path_text(path: str) -> str:
    r"""A path as text that shows as what it is, and from which `path_of` makes the path again.

    Backslashes, controls, marks for writing direction and bytes that are no UTF-8 are written as
    Python writes them in a literal: `\\`, `\n`, `\u202e`, and `\udcff` for the byte ff. A name
    that a spreadsheet would take for a formula begins with `./`.
    """
    text = "".join(
        each
        if each.isprintable() and each != "\\"
        else each.encode("unicode_escape").decode("ascii")
        for each in path
    )
    return f"./{text}" if text.startswith(_BEGINS_A_FORMULA) else text


def path_of(text: str) -> str:
    """The path that `path_text` has made a text of; perhaps with `./` in front."""
    return _ESCAPE.sub(lambda found: codecs.decode(found[0], "unicode_escape"), text)


def json_line(names: Sequence[str]) -> Format:
    """What makes a line of JSON of a row."""

    def line(row: Row) -> bytes:
        found = {name: row.get(name) for name in names}
        return f"{json.dumps(found, ensure_ascii=False, allow_nan=False)}\n".encode(
            errors="backslashreplace"
        )

    return line


def csv_line(names: Sequence[str]) -> Format:
    """What makes a line of CSV of a row; what a cell holds is quoted where it has to be."""

    def line(row: Row) -> bytes:
        return csv_text([_cell(row.get(name)) for name in names])

    return line


def csv_text(cells: Sequence[object]) -> bytes:
    """A line of CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue().encode(errors="backslashreplace")


def folder_of(name: str) -> str:
    """The name of the folder for a class: its own, with what no name of a folder may have as `%2F`.

    Two classes never have the same folder.
    """
    folder = re.sub(r"[%~/\\\x00-\x1f]|^\.", lambda found: f"%{ord(found[0]):02X}", name)
    encoded = folder.encode(errors="backslashreplace")
    if folder and len(encoded) <= MAX_NAME_BYTES:
        return encoded.decode()
    key = hashlib.sha256(encoded).hexdigest()[:16]
    return f"{encoded[:MAX_NAME_BYTES].decode(errors='ignore')}~{key}"


def _cell(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
