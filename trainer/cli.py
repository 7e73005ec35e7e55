"""`snapensemble train`: flags and a TOML file -> TrainConfig -> train()."""

import argparse
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from contracts.errors import InvalidConfig
from contracts.run import read_run
from trainer.config import TrainConfig

BUDGET = {"cycles", "epochs"}
FLAGS: dict[str, tuple[type, str]] = {
    "model": (str, "network: tiny, small, resnet20, resnet32, resnet44, resnet56, resnet110"),
    "cycles": (int, "number of cycles, one snapshot each (5)"),
    "epochs": (int, "total epochs instead of --cycles; must end on a cycle"),
    "cycle_epochs": (int, "epochs in the first cycle"),
    "t_mult": (int, "each cycle is this many times longer than the one before"),
    "lr_max": (float, "learning rate after a restart"),
    "lr_min": (float, "learning rate that a cycle falls towards"),
    "batch_size": (int, "images per step (128, less for few images)"),
    "momentum": (float, "Nesterov momentum"),
    "weight_decay": (float, "L2 penalty"),
    "image_size": (int, "height and width in pixels; image folders only (64)"),
    "crop_padding": (int, "random shift in pixels (an eighth of the image, none below 16)"),
    "val_fraction": (float, "share of each class that validates"),
    "split_seed": (int, "which images validate; the same for runs that are compared"),
    "seed": (int, "weights, order and augmentation"),
    "device": (str, "auto, cpu, cuda, cuda:1, ..."),
    "threads": (int, "CPU threads (all that this process may use)"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `snapensemble train`. Defaults live in TrainConfig alone."""
    defaults = {f.name: f.default for f in fields(TrainConfig)}
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument(
        "--data", metavar="SPEC", help="digits, cifar10:DIR, npz:FILE, or an image folder"
    )
    parser.add_argument("--out", type=Path, metavar="RUN_DIR", help="a new directory for the run")
    parser.add_argument(
        "--config", type=Path, metavar="FILE.toml", help="settings by name; flags win over it"
    )
    parser.add_argument(
        "--schedule", choices=["sgdr"], help="cosine annealing with warm restarts (sgdr)"
    )
    parser.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help="mirror half of the images (where a mirror image keeps its class)",
    )
    for name, (kind, text) in FLAGS.items():
        default = defaults[name]
        shown = "" if default in (None, MISSING) else f" ({default})"
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=text + shown)


def run(args: argparse.Namespace) -> int:
    """Train; the last line of stdout is the run directory."""
    flags = vars(args)
    file: Path | None = flags.pop("config", None)
    config = build_config(merged(_read_toml(file) if file else {}, flags))

    import torch

    from trainer.run import train

    try:
        run_dir = train(config)
    except torch.OutOfMemoryError as error:
        raise InvalidConfig(
            f"the device has too little memory: {error}; lower --batch-size or --image-size"
        ) from error
    for snapshot in read_run(run_dir).snapshots:
        print(
            f"cycle {snapshot.cycle}  val nll {snapshot.val.nll:.4f}  "
            f"val accuracy {snapshot.val.accuracy:.2%}  {snapshot.file}"
        )
    print(run_dir)
    return 0


def merged(file: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """The file's settings under the flags; one of cycles and epochs as a flag replaces either."""
    if flags.keys() & BUDGET:
        file = {name: value for name, value in file.items() if name not in BUDGET}
    return {**file, **flags}


def build_config(settings: dict[str, Any]) -> TrainConfig:
    """A TrainConfig from names and values.

    Raises:
        InvalidConfig: a required one is missing, or a value is of the wrong kind.
    """
    for name in ("data", "out"):
        if name not in settings:
            raise InvalidConfig(f"--{name} is required, as a flag or in the --config file")
    return TrainConfig(**{**settings, "out": Path(settings["out"])})


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidConfig(f"{file}: {error}") from error
    kinds: dict[str, type] = {"data": str, "out": str, "flip": bool, "schedule": str}
    kinds |= {name: kind for name, (kind, _) in FLAGS.items()}
    for name, value in content.items():
        if name not in kinds:
            raise InvalidConfig(f"{file}: unknown setting {name!r}; known: {', '.join(kinds)}")
        accepted = (int, float) if kinds[name] is float else (kinds[name],)
        if type(value) not in accepted:
            raise InvalidConfig(f"{file}: {name} must be {kinds[name].__name__}, got {value!r}")
    return content
