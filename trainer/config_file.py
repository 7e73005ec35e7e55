"""TrainConfig <-> TOML: what `--config` reads, and `config.toml` in a run directory."""

import json
import tomllib
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from contracts.errors import InvalidConfig, InvalidManifest
from contracts.files import read_verified
from contracts.run import read_run
from trainer.config import HUB, TrainConfig
from trainer.data import resolved

CONFIG_FILE = "config.toml"
HINTS: dict[str, Any] = get_type_hints(TrainConfig)


def kind_of(name: str) -> type:
    """The plain type of a setting: int, float, str, bool, Path or tuple."""
    hint = HINTS[name]
    if isinstance(hint, UnionType):  # `int | None`: not given is how None is written
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is Literal:
        return str
    kind: type = get_origin(hint) or hint
    return kind


def choices_of(name: str) -> tuple[str, ...]:
    """The values that a setting may have."""
    return get_args(HINTS[name])


def to_toml(config: TrainConfig) -> str:
    """The settings without the run directory; paths are made absolute."""
    lines = []
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name != "out" and value is not None:
            if field.name == "data":
                value = resolved(value)
            if field.name == "pretrained" and value != HUB:
                value = str(Path(value).expanduser().resolve())
            # JSON's strings, numbers, booleans and lists are TOML's, but for one character.
            text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
            lines.append(f"{field.name} = {text}\n")
    return "".join(lines)


def read_toml(file: Path) -> dict[str, Any]:
    """Settings by name from a file.

    Raises:
        InvalidConfig: not TOML, an unknown name, or a value of the wrong kind.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"{file}: {error}") from error
    return parsed(text, file)


def parsed(text: str, file: Path) -> dict[str, Any]:
    """Settings by name from TOML; `file` is for the messages. Raises as `read_toml` does."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfig(f"{file}: {error}") from error
    for name, value in content.items():
        if name not in HINTS:
            raise InvalidConfig(f"{file}: unknown setting {name!r}; known: {', '.join(HINTS)}")
        kind = kind_of(name)
        if not _fits(value, kind):
            expected = "a list of numbers" if kind is tuple else kind.__name__
            raise InvalidConfig(f"{file}: {name} must be {expected}, got {value!r}")
        if kind in (tuple, Path):
            content[name] = kind(value)
    return content


def run_config(run_dir: Path) -> TrainConfig:
    """The settings that a run was started with.

    Raises:
        InvalidManifest: the directory holds no run, or its settings were changed.
    """
    run = read_run(run_dir)
    if run.config is None:
        raise InvalidManifest(f"{run_dir} keeps no settings: an earlier version made it")
    config = run.config
    text = read_verified(run_dir, config.file, config.sha256, config.size).decode()
    return TrainConfig(**parsed(text, run_dir / CONFIG_FILE), out=run_dir)


def _fits(value: object, kind: type) -> bool:
    if kind is float:
        return type(value) in (int, float)
    if kind is tuple:
        return isinstance(value, list) and all(_fits(each, float) for each in value)
    return type(value) is (str if kind is Path else kind)
