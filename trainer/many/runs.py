"""Several runs that differ in their seed, or the cycles of a star: which they are, one by one.

Each has a directory of its own below --out, and is what `train` or `branch` would leave there. What
is finished is not trained again, and what was stopped goes on.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.files import TEMPORARY, explaining_failures, write_atomically
from snapensemble.contracts.options import differences
from snapensemble.contracts.run import RUN_FILE, read_run
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.config_file import parsed, read_toml, run_config, to_toml
from snapensemble.trainer.options.images import MAX_SEED
from snapensemble.trainer.run import branch, resume, train

RUNS_FILE = "runs.toml"  # the settings of all runs of a directory
MACHINE = ("device", "threads", "checkpoint_minutes")  # settings that may change


@dataclass(frozen=True)
class OneRun:
    """One of several runs.

    Args:
        out: its directory.
        config: its settings, if it is one by itself.
        origin: the run that it is a branch of, else.
        cycle: which of that run's cycles.
        changes: settings of this machine.
    """

    out: Path
    config: TrainConfig | None = None
    origin: Path | None = None
    cycle: int = 0
    changes: dict[str, Any] = field(default_factory=dict)

    def train(self, threads: int | None = None) -> Path:
        """Train it, or go on with it; give its directory. Raises what `train` and `resume` do.

        Args:
            threads: how many it has, if not those of its settings.
        """
        changes = self.changes if threads is None else {**self.changes, "threads": threads}
        if (self.out / RUN_FILE).exists():
            return resume(self.out, **changes)
        if self.config is not None:
            return train(self.config.model_copy(update=changes))
        assert self.origin is not None
        return branch(self.origin, self.cycle, self.out, **changes)


def seeds(config: TrainConfig, count: int) -> list[OneRun]:
    """The runs with `count` seeds from the settings' own on, in OUT/seed-0 and so on.

    Raises:
        InvalidConfig: a seed is too large, or the directory was begun with other settings.
        WriteFailed: the directory cannot be made.
    """
    last = config.seed + count - 1
    if last > MAX_SEED:
        raise InvalidConfig(f"--runs {count}: the last seed would be {last}, above {MAX_SEED}")
    _note_settings(config)
    machine = {name: value for name in MACHINE if (value := getattr(config, name)) is not None}
    return [
        OneRun(
            out := config.out / f"seed-{seed}",
            config.model_copy(update={"seed": seed, "out": out}),
            changes=machine,
        )
        for seed in range(config.seed, last + 1)
    ]


def branches(origin: Path, out: Path, changes: dict[str, Any]) -> list[OneRun]:
    """The later cycles of a star, in OUT/cycle-01 and so on, as torchrun would train them.

    Raises:
        InvalidManifest: the directory holds no run.
        InvalidConfig: a change is out of bounds.
    """
    config = run_config(origin, **changes)  # reads texts as what they stand for
    changes = {name: getattr(config, name) for name in changes}
    return [
        OneRun(out / f"cycle-{cycle:02d}", origin=origin, cycle=cycle, changes=changes)
        for cycle in range(1, read_run(origin).schedule.cycles)
    ]


def _note_settings(config: TrainConfig) -> None:
    """Write the settings that all runs share, or compare them with those that are there."""
    file = config.out / RUNS_FILE
    text = to_toml(config.model_copy(update={"seed": 0}))
    if not file.exists():
        with explaining_failures(config.out):
            config.out.mkdir(parents=True, exist_ok=True)
            # What a killed start has left of the file itself counts as nothing.
            others = sorted(e.name for e in config.out.iterdir() if e.suffix != TEMPORARY)
        if others:
            raise InvalidConfig(
                f"{config.out} holds {others[0]}, and no {RUNS_FILE} to go on with; choose another "
                "--out for several runs"
            )
        write_atomically(file, text.encode())
        return
    found, now = (
        {name: value for name, value in settings.items() if name not in MACHINE}
        for settings in (read_toml(file), parsed(text, file))
    )
    if changed := differences(found, now):
        raise InvalidConfig(
            f"{config.out} was begun with other settings: {'; '.join(changed)}; give the same "
            "again, or choose another --out"
        )
