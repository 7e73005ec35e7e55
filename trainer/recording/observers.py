"""The observers of a run: the progress for a person at the terminal, and metrics.jsonl."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, TextIO

from tqdm import tqdm

from snapensemble.contracts.files import explaining_failures
from snapensemble.contracts.manifest import ValFigures
from snapensemble.contracts.run import RunManifest
from snapensemble.trainer.loop import Step
from snapensemble.trainer.schedule import Cycle


class Observer(Protocol):
    """Receives every step, validation and snapshot of a run."""

    def step(self, step: Step, epoch: int, cycle: int) -> None:
        """Called after an optimizer update."""

    def epoch(self, step: Step, epoch: int, cycle: int, val: ValFigures, seconds: float) -> None:
        """Called after validation; `step` was the epoch's last, `seconds` its training time."""

    def snapshot(self, cycle: Cycle) -> None:
        """Called after a cycle's weights were kept."""

    def flush(self) -> None:
        """Called before a checkpoint: what came so far must outlast this process."""


class MetricsFile:
    """metrics.jsonl: a line per step, and a line per epoch with the validation figures.

    Args:
        path: where the file is, or will be.
        first_step: the next step to come. Lines of a resumed run from it on, and a torn last
            one, are removed: these steps will be done again.
        first_epoch: the next validation to come; lines from it on are removed likewise.
    """

    def __init__(self, path: Path, first_step: int = 0, first_epoch: int = 0) -> None:
        self._path = path
        with explaining_failures(path):
            if path.exists():
                with path.open("rb+") as file:
                    file.truncate(bytes_before(first_step, first_epoch, file))
            self._file: TextIO = path.open("a", encoding="utf-8")

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._file.close()
        except OSError as failure:  # must not hide the error that came before it
            print(f"{self._path}: last lines lost: {failure.strerror}", file=sys.stderr)

    def step(self, step: Step, epoch: int, cycle: int) -> None:
        """Write a line with step, epoch, cycle, lr and loss."""
        self._write(step=step.step, epoch=epoch, cycle=cycle, lr=step.learning_rate, loss=step.loss)

    def epoch(self, step: Step, epoch: int, cycle: int, val: ValFigures, seconds: float) -> None:
        """Write a line with the validation figures; readers see all lines so far."""
        self._write(
            step=step.step,
            epoch=epoch,
            cycle=cycle,
            **{f"val_{name}": value for name, value in val.said.items()},
            seconds=seconds,
        )
        self.flush()

    def snapshot(self, cycle: Cycle) -> None:
        """Write nothing: run.json lists the snapshots."""

    def flush(self) -> None:
        """Make all lines so far reach the disk."""
        with explaining_failures(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def _write(self, **line: float) -> None:
        with explaining_failures(self._path):
            self._file.write(json.dumps(line) + "\n")


class Progress:
    """A bar with loss, rate and time left, and a line per epoch; lines only without a terminal."""

    def __init__(self, run: RunManifest, first_step: int = 0) -> None:
        self._run = run
        self._first_step = first_step
        self._steps = 0  # of this epoch, in this process
        self._stream = stream = sys.stderr
        self._started = time.monotonic()
        self._bar = tqdm(
            initial=first_step * run.training.batch_size,
            total=run.last_step * run.training.batch_size,
            unit=" images",
            unit_scale=True,
            file=stream,
            disable=not stream.isatty(),
            leave=False,
        )

    def __enter__(self) -> "Progress":
        self.say(describe(self._run))
        if self._first_step:
            self.say(f"going on after step {self._first_step}")
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def step(self, step: Step, epoch: int, cycle: int) -> None:
        """Move the bar by one step."""
        self._bar.set_postfix(
            loss=f"{step.loss:.3f}", lr=f"{step.learning_rate:.4f}", refresh=False
        )
        self._bar.update(self._run.training.batch_size)
        self._steps += 1

    def epoch(self, step: Step, epoch: int, cycle: int, val: ValFigures, seconds: float) -> None:
        """Print how the epoch went."""
        done, total = step.step + 1, self._run.last_step
        per_step = (time.monotonic() - self._started) / max(1, done - self._first_step)
        left = per_step * (total - done)
        images, self._steps = self._steps * self._run.training.batch_size, 0
        self.say(
            f"cycle {cycle}  epoch {epoch:3d}  step {done}/{total}  loss {step.loss:.3f}  "
            f"validation: {val.in_words}  "
            + (f"{images / seconds:,.0f} images/s  " if images else "")
            + f"{_clock(left)} left"
        )

    def snapshot(self, cycle: Cycle) -> None:
        """Print that a snapshot was taken."""
        self.say(f"cycle {cycle.index}  snapshot after step {cycle.end}")

    def flush(self) -> None:
        """Do nothing: every line is shown at once."""

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        # Whoever read the progress may have left (`| head`), or its disk is full; training goes on.
        with contextlib.suppress(OSError):
            self._bar.write(line, file=self._stream)
            self._stream.flush()


def bytes_before(first_step: int, first_epoch: int, lines: Iterable[bytes]) -> int:
    """The bytes of a metrics file that are whole lines of earlier steps and validations."""
    kept = 0
    for text in lines:
        try:
            line = json.loads(text)
            bound = ("epoch", first_epoch) if "val_nll" in line else ("step", first_step)
            earlier = text.endswith(b"\n") and line[bound[0]] < bound[1]
        except (ValueError, KeyError, TypeError):
            earlier = False
        if not earlier:
            break
        kept += len(text)
    return kept


def describe(run: RunManifest) -> str:
    """What is about to be trained, in one line."""
    return (
        f"{run.training.model} ({run.training.parameters:,} parameters) on "
        f"{run.data.train_images:,} images of {run.image.width}x{run.image.height}, "
        f"{len(run.classes)} classes; {run.data.val_images:,} validate; "
        f"{run.schedule.name}: {run.schedule.in_words()}, {run.schedule.total_steps:,} steps of "
        f"{run.training.batch_size} on {run.training.device}"
        + (f", {run.training.processes} processes" if run.training.processes > 1 else "")
        + (f"; cycle {run.branch.cycle} is trained here" if run.branch is not None else "")
    )


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
