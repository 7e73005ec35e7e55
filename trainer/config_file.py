"""TrainConfig as TOML: what `--config` reads, and config.toml in a run directory."""

import json
import os
import tomllib
from pathlib import Path
from typing import Any

from snapensemble.contracts.errors import InvalidConfig, InvalidManifest
from snapensemble.contracts.files import in_home, read_at_most, read_verified
from snapensemble.contracts.options import build, read_options
from snapensemble.contracts.run import read_run
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.data.dataset import resolved
from snapensemble.trainer.options.network import FRESH, HUB

CONFIG_FILE = "config.toml"
MAX_SETTINGS_BYTES = 2**20


def to_toml(config: TrainConfig) -> str:
    """The settings as TOML, without the run directory; paths are made absolute."""
    lines = []
    for name, value in config:
        if name != "out" and value is not None:
            if name == "data":
                value = resolved(value)
            if name == "pretrained" and value not in (HUB, FRESH):
                value = os.path.realpath(in_home(value))
            # JSON's strings, numbers, booleans and lists are TOML's, but for one character.
            text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
            lines.append(f"{name} = {text}\n")
    return "".join(lines)


def read_toml(file: Path) -> dict[str, Any]:
    """Settings by name from a file.

    Raises:
        InvalidConfig: the file is not TOML, or has an unknown name, or a value of the wrong kind or
            out of bounds.
    """
    try:
        text = read_at_most(file, MAX_SETTINGS_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"{file}: {getattr(error, 'strerror', error)}") from error
    return parsed(text, file)


def parsed(text: str, file: Path) -> dict[str, Any]:
    """Settings by name from TOML; `file` is for the messages. Raises as `read_toml` does."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfig(f"{file}: {error}") from error
    return read_options(TrainConfig, content, file)


def run_config(run_dir: Path, more_cycles: int = 0, **changes: Any) -> TrainConfig:
    """The settings that a run goes on with.

    They are in its config.toml, but for the number of cycles, to which some may have been added,
    and those that the first one's trial has made: run.json has these, so that they change in one
    file and at one moment.

    Args:
        run_dir: made by `train`.
        more_cycles: how many to add now.
        changes: other settings by name.

    Raises:
        InvalidManifest: the directory holds no run, or its settings were changed.
        InvalidConfig: a change is out of bounds, or the schedule knows no further cycles.
    """
    run = read_run(run_dir)
    if run.config is None:
        raise InvalidManifest(
            f"{run_dir} keeps no settings, since an early version made it; export takes the cycles "
            "that are finished, for more of them train again with a new --out"
        )
    config = run.config
    text = read_verified(run_dir, config.file, config.sha256, config.size).decode()
    kept = parsed(text, run_dir / CONFIG_FILE)
    if "pretrained" in kept:  # an earlier version left open what has another default by now
        had = {"lr_max": run.schedule.eta_max, "batch_size": run.training.batch_size}
        kept = had | kept
    settings = build(TrainConfig, {**kept, "out": run_dir, **changes})
    if more_cycles and settings.schedule != "sgdr":
        raise InvalidConfig(
            f"--more-cycles: the rate of {settings.schedule} has come to its end in {run_dir} and "
            "does not restart; only sgdr can have more cycles. Train again with a new --out"
        )
    found = run.schedule
    cycles, lengths = found.cycles + more_cycles, {}
    if found.trial == "fitted":
        lengths = {"first_cycle_epochs": found.epochs_of(0), "cycle_epochs": found.epochs_of(1)}
    elif settings.cycle_count == cycles:
        return settings
    return build(TrainConfig, {**dict(settings), **lengths, "cycles": cycles, "epochs": None})
