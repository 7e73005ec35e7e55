"""metrics.jsonl, read as a stream: what was logged of every step and of every epoch.

Shapes: T logged steps, E epochs.
"""

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite, nan
from pathlib import Path
from typing import Any, Never

from snapensemble.contracts.errors import InvalidManifest
from snapensemble.contracts.files import MAX_FILE_BYTES, open_regular
from snapensemble.contracts.run import METRICS_FILE


def _integers() -> "array[int]":
    return array("q")


def _floats() -> "array[float]":
    return array("d")


@dataclass(frozen=True, slots=True)
class History:
    """What a run has logged, in compact columns: millions of steps fit into memory."""

    step_T: "array[int]" = field(default_factory=_integers)  # counted from 0
    rate_T: "array[float]" = field(default_factory=_floats)
    loss_T: "array[float]" = field(default_factory=_floats)
    done_E: "array[int]" = field(default_factory=_integers)  # updates done when validating
    val_nll_E: "array[float]" = field(default_factory=_floats)
    val_accuracy_E: "array[float]" = field(default_factory=_floats)
    val_macro_accuracy_E: "array[float]" = field(default_factory=_floats)  # NaN: not logged
    starts: dict[int, int] = field(default_factory=dict)  # cycle -> its first step

    def add(self, line: dict[str, Any]) -> None:
        """Take in one line. A step logged again, by a resumed run, replaces what followed it."""
        step = _count(line, "step")
        if "loss" in line:
            self._forget(step)
            self.starts.setdefault(_count(line, "cycle"), step)
            self.step_T.append(step)
            self.rate_T.append(_number(line, "lr"))
            self.loss_T.append(_number(line, "loss"))
        elif "val_nll" in line:
            self._forget_epochs(step)
            self.done_E.append(step + 1)
            self.val_nll_E.append(_number(line, "val_nll"))
            self.val_accuracy_E.append(_number(line, "val_accuracy"))
            macro = "val_macro_accuracy"  # which earlier versions did not log
            self.val_macro_accuracy_E.append(_number(line, macro) if macro in line else nan)

    def _forget(self, step: int) -> None:
        """Drop what was logged of `step` and later."""
        while self.step_T and self.step_T[-1] >= step:
            for column in (self.step_T, self.rate_T, self.loss_T):
                column.pop()
        self._forget_epochs(step)
        while self.starts and next(reversed(self.starts.values())) >= step:
            self.starts.popitem()

    def _forget_epochs(self, step: int) -> None:
        while self.done_E and self.done_E[-1] > step:
            for column in (
                self.done_E,
                self.val_nll_E,
                self.val_accuracy_E,
                self.val_macro_accuracy_E,
            ):
                column.pop()


def read_history(run_dir: Path) -> History:
    """Read all that a run logged, without the last line if a killed run has torn it.

    Raises:
        InvalidManifest: there is no such file, or another line is damaged.
    """
    path = run_dir / METRICS_FILE
    history = History()
    try:
        with open_regular(path, MAX_FILE_BYTES) as file:
            for number, line in _whole_lines(file, path):
                try:
                    history.add(line)
                except (ValueError, OverflowError) as error:
                    raise InvalidManifest(f"{path}: line {number}: {error}") from error
    except OSError as error:
        raise InvalidManifest(
            f"{path}: {error.strerror or error}; `snapensemble train` writes it beside run.json"
        ) from error
    return history


def _whole_lines(file: Iterator[bytes], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    torn: str | None = None
    for number, text in enumerate(file, start=1):
        if torn is not None:
            raise InvalidManifest(torn)
        try:
            line = json.loads(text, parse_constant=_refuse)
            if not isinstance(line, dict):
                raise ValueError(f"expected an object, found {type(line).__name__}")
        except (ValueError, RecursionError) as error:
            torn = f"{path}: line {number} is damaged: {error}"
            continue
        yield number, line


def _refuse(constant: str) -> Never:
    raise ValueError(f"{constant} is no number")


def _count(line: dict[str, Any], name: str) -> int:
    value = line.get(name)
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"{name} must be a whole number from 0, found {value!r}")
    return value


def _number(line: dict[str, Any], name: str) -> float:
    value = line.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError(f"{name} must be a number, found {value!r}")
    return float(value)
