"""A short run, what it leaves, and how it is killed at any moment of it."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from snapensemble.contracts.run import read_run
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.recording.observers import MetricsFile
from tests.forks import finished


def short(out: Path, **changes: Any) -> TrainConfig:
    """Two cycles of two epochs of 12 steps, with all that draws random numbers."""
    values: dict[str, Any] = {
        "data": "digits",
        "model": "tiny",
        "cycles": 2,
        "cycle_epochs": 2,
        "batch_size": 64,
        "crop_padding": 1,
        "flip": True,
        "cutout": 2,
        "trivial_augment": True,
        "color_jitter": 0.4,
        "random_erasing": 0.25,
        "mixup": 0.4,
        "cutmix": 1.0,
        "class_balance": "sqrt",
        "threads": 1,
        "checkpoint_minutes": 0.0,  # after every step
        **changes,
    }
    return TrainConfig(out=out, **values)


def outcome(run_dir: Path) -> tuple[Any, ...]:
    """All that a run leaves, but for how long it took."""
    run = read_run(run_dir)
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds", None)
    return run.all_snapshots, lines, sorted(os.listdir(run_dir))


def killed(run: Callable[[], object], event: int) -> int:
    """Run in a child process that gets SIGKILL at an event; give the number of events.

    Events are steps and, in every file written, the moments before and after it takes its name.
    """
    seen = 0

    def count(real: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*args, **kwargs)
            seen += after
            if after and seen == event:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted

    def counting() -> int:
        for owner, name, after in ((Path, "replace", True), (MetricsFile, "step", False)):
            mock.patch.object(owner, name, count(getattr(owner, name), after=after)).start()
        run()
        sys.stdout.write(f"events: {seen}")
        return 0

    done = finished(counting)
    if done.returncode == -signal.SIGKILL:
        return event
    assert done.returncode == 0, done.stderr
    return int(done.stdout.rpartition("events:")[2])
