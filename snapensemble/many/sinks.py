"""What becomes of the answers: lines for people, or rows of a file and pictures by class."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.process import printable, say
from snapensemble.many.output import Output, progress_file
from snapensemble.many.places import Places
from snapensemble.many.rows import answered, csv_text, unreadable

ROWS = ".rows"  # the rows of a Parquet file until it is whole

Describe = Callable[[str, dict[str, Any]], str]


class Sink(Protocol):
    """What becomes of the answers."""

    def has(self, picture: str) -> bool:
        """Whether a picture was answered before."""

    def answer(self, picture: str, prediction: dict[str, Any]) -> None:
        """Take the answer for a picture."""

    def failure(self, picture: str, error: Exception) -> None:
        """Take the reason why a picture has none."""


@dataclass
class Printed:
    """Answers as lines for people, on standard output."""

    describe: Describe

    def has(self, picture: str) -> bool:
        """Return False: nothing is kept."""
        return False

    def answer(self, picture: str, prediction: dict[str, Any]) -> None:
        """Print a line."""
        print(printable(self.describe(picture, prediction)), flush=True)

    def failure(self, picture: str, error: Exception) -> None:
        """Say it on standard error."""
        say(printable(f"{picture}: {error}"))


@dataclass
class Written:
    """Answers as rows of a file, and the pictures by class in their places."""

    output: Output
    line: Callable[[dict[str, Any]], bytes]
    places: Places | None

    def has(self, picture: str) -> bool:
        """Whether the file has a row of the picture."""
        return self.output.has(picture)

    def answer(self, picture: str, prediction: dict[str, Any]) -> None:
        """Write a row, and decide where its picture is to go."""
        placement, place = None, {}
        if self.places is not None:
            placement = self.places.decide(os.path.abspath(picture), prediction["class"])
            place = {self.places.column: placement.target}
        self.output.add(picture, self.line(answered(picture, prediction, place)), placement)

    def failure(self, picture: str, error: Exception) -> None:
        """Write a row with the error; the picture stays where it is."""
        self.output.add(picture, self.line(unreadable(picture, error)))


def opened(
    out: Path,
    names: Sequence[str],
    options: dict[str, str],
    places: Places | None,
    *,
    restart: bool = False,
) -> Output:
    """The file of rows: the one that was asked for, or what a Parquet file is made of.

    With `restart` the rows that are there are forgotten.

    Raises:
        InvalidConfig: a Parquet file is there that cannot be gone on with.
    """
    if out.suffix.lower() != ".parquet":
        head = csv_text(names) if out.suffix.lower() == ".csv" else b""
        return Output(out, options, head, places, restart=restart)
    rows = out.with_name(out.name + ROWS)
    if out.exists() and not progress_file(rows).exists() and not restart:
        raise InvalidConfig(
            f"{out} is there already, without {progress_file(rows).name} beside it to go on with; "
            "choose another --out, or give --restart to write it anew"
        )
    return Output(rows, options, b"", places, out, restart)


def own_names(out: Path | None) -> list[str]:
    """The names of the files that are written, which are no pictures."""
    if out is None:
        return []
    rows = out.with_name(out.name + ROWS)
    progress = [progress_file(each).name for each in (out, rows)]
    return [out.name, rows.name, *progress, *(f"{each}-journal" for each in progress)]  # SQLite's
