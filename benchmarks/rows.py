"""Rows of a benchmark that are written as soon as they are known, and are read when it goes on."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def json_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a file, if it is there; one torn by a full disk does not count."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def add_sitting(parser: argparse.ArgumentParser, name: str) -> None:
    """Add what every benchmark takes that may be done in several sittings."""
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, required=True, help="keeps the runs and the rows")
    parser.add_argument("--name", default=name, help="of the result files")


class Skipped(Exception):
    """A row cannot be measured here; the message says why."""


class Rows:
    """The rows measured so far, in a file that outlasts this process.

    Args:
        file: a line of JSON per row.
        ends: when the last rows have to begin, as the monotonic clock tells it.
    """

    def __init__(self, file: Path, ends: float) -> None:
        self._file, self._ends = file, ends
        # A row that was measured again stands in the file twice; the last time counts.
        self.rows = list({row["row"]: row for row in json_lines(file)}.values())

    @property
    def seconds_left(self) -> float:
        """Until the last rows have to begin."""
        return self._ends - time.monotonic()

    def has(self, name: str) -> bool:
        """Whether a row is there and told something."""
        return any(row["row"] == name and "skipped" not in row for row in self.rows)

    def measure(self, name: str, way: Callable[[], dict[str, Any]], late: bool = False) -> None:
        """Measure a row and write it down; what fails is a row too, and the others go on.

        Args:
            name: of the row; one that is there is not measured again.
            way: gives its figures, or raises Skipped.
            late: whether it is one of the last rows, which are always measured; time is kept
                for them.
        """
        if self.has(name) and not late:
            return
        if self.seconds_left < 0 and not late:
            self.add(name, {"skipped": "no time was left"})
            return
        started = time.monotonic()
        try:
            found = way()
        except Skipped as reason:
            found = {"skipped": str(reason)}
        except Exception as error:  # whatever it is, the other rows are worth having
            found = {"ok": False, "failed": f"{type(error).__name__}: {error}"[:500]}
        self.add(name, {**found, "seconds": round(time.monotonic() - started, 2)})

    def add(self, name: str, found: dict[str, Any]) -> None:
        """Write a row down and show it."""
        row = {"row": name, **found}
        self.rows = [each for each in self.rows if each["row"] != name] + [row]
        line = json.dumps(row)
        with self._file.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)
