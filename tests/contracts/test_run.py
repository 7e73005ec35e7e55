"""What run.json says of a schedule and of more cycles."""

import json
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from snapensemble.contracts.errors import InvalidManifest
from snapensemble.contracts.run import RUN_FILE, ScheduleRecord, read_run
from tests.report.run.runs import make_run


def record(lengths: list[int], steps_per_epoch: int = 7, **changes: Any) -> ScheduleRecord:
    """A schedule of cycles of these lengths in epochs."""
    ends = tuple(accumulate(length * steps_per_epoch for length in lengths))
    values: dict[str, Any] = {
        "T_0": ends[0], "T_mult": 1, "eta_max": 0.1, "eta_min": 0.0, "cycles": len(ends),
        "steps_per_epoch": steps_per_epoch, "total_steps": ends[-1], "cycle_ends": ends,
    }  # fmt: skip
    return ScheduleRecord(**{**values, **changes})


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ([1], "1 cycle of 1 epoch"),
        ([10] * 5, "5 cycles of 10 epochs"),
        ([10, 15], "2 cycles of 10 and 15 epochs"),
        ([20, 8, 12], "3 cycles of 20, 8 and 12 epochs"),
        ([3, *range(1, 12)], "12 cycles of 1 to 11 epochs"),
    ],
)
def test_a_schedule_says_how_long_its_cycles_are(lengths: list[int], words: str) -> None:
    assert record(lengths).in_words() == words


def test_a_schedule_of_an_earlier_version_says_how_many_cycles_it_has() -> None:
    assert record([10] * 5, cycle_ends=()).in_words("interval") == "5 intervals"


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.data())
def test_a_shortened_schedule_is_one_of_fewer_cycles(
    lengths: list[int], data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(lengths)))
    assert record(lengths).shortened(count) == record(lengths[:count])


@pytest.mark.parametrize(
    "changes",
    [
        {"cycle_ends": (14, 7, 21)},
        {"cycle_ends": (7, 7, 21)},
        {"cycle_ends": (0, 7, 21)},
        {"cycle_ends": (7, 21)},
        {"cycle_ends": (7, 14, 20)},
        {"T_mult": 0.99},
        {"T_mult": float("inf")},
        {"T_1": 0},
    ],
)
def test_a_schedule_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    record([1, 1, 1])
    with pytest.raises(ValidationError):
        record([1, 1, 1], **changes)


@pytest.mark.parametrize("done", [[0], [4], [1, 9], [-1], ["1"]])
def test_a_run_was_extended_after_cycles_that_have_their_snapshot(
    tmp_path: Path, done: list[object]
) -> None:
    file = make_run(tmp_path / "run") / RUN_FILE
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "extended_after": [1, 3]}))
    assert read_run(tmp_path / "run").extended_after == (1, 3)
    file.write_text(json.dumps({**content, "extended_after": done}))
    with pytest.raises(InvalidManifest, match="extended_after"):
        read_run(tmp_path / "run")
