"""`snapensemble train`: flags and a TOML file -> TrainConfig -> train()."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from contracts.errors import InvalidConfig
from contracts.run import read_run
from trainer.config import TrainConfig
from trainer.config_file import choices_of, kind_of, read_toml
from trainer.data import SPECS

BUDGET = {"cycles", "epochs"}
RESUMABLE = {"data", "device", "threads", "checkpoint_minutes"}  # may change when a run goes on
FLAGS: dict[str, str] = {
    "model": "network; docs/networks.md lists them (small up to 16 pixels, resnet20 above)",
    "cycles": "number of cycles, one snapshot each (5)",
    "epochs": "total epochs instead of --cycles; must end on a cycle",
    "cycle_epochs": "epochs in the first cycle",
    "t_mult": "sgdr: each cycle is this many times longer than the one before",
    "lr_max": "highest learning rate (0.1; 0.01 with --pretrained)",
    "lr_min": "sgdr, cosine: rate that a cycle falls towards; plateau: lowest rate",
    "lr_max_decay": "sgdr: each restart is at this multiple of the one before",
    "warmup_epochs": "sgdr, cosine: epochs of the first cycle in which the rate climbs",
    "lr_steps": "step: shares of the run after which the rate falls (0.5 0.75)",
    "lr_factor": "step, plateau: the rate is multiplied by this",
    "patience": "plateau: epochs without a better validation NLL before the rate falls",
    "lr_start": "hypergradient: first rate; --lr-max is the highest it may reach",
    "hyper_lr": "hypergradient: beta, the rate's own rate (0.001; multiplicative: 0.02)",
    "batch_size": "images per step, over all processes (128, less for few images)",
    "momentum": "Nesterov momentum",
    "weight_decay": "L2 penalty",
    "label_smoothing": "share of each label that is spread over all classes",
    "image_size": "height and width in pixels; image folders only (64)",
    "crop_padding": "random shift in pixels (an eighth of the image, none below 16)",
    "cutout": "side in pixels of a square that is removed from each image",
    "random_resized_crop": "show random parts of at least this share of the area, not shifts",
    "max_bad_images": "unreadable files of a folder that are left out; more end the run",
    "max_image_cost": "what decoding a picture may cost, in times what a server accepts (6.25)",
    "val_fraction": "share of each class that validates",
    "split_seed": "which images validate; the same for runs that are compared",
    "seed": "weights, order and augmentation",
    "device": "auto, cpu, cuda, cuda:1, ...",
    "threads": "CPU threads (all that this process may use)",
    "checkpoint_minutes": "minutes between checkpoints, which --resume goes on from",
}
CHOICES = {
    "schedule": "sgdr, or what it is compared with at the same budget (sgdr)",
    "hyper_rule": "hypergradient: how the rate moves (additive)",
    "precision": "bf16: autocast, for GPUs (fp32)",
}
SWITCHES = {
    "flip": "mirror half of the images (where a mirror image keeps its class)",
    "compile": "torch.compile: a slow first step, then faster ones (no)",
    "tensorboard": "TensorBoard event files in RUN_DIR/tensorboard (no)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `snapensemble train`. Defaults live in TrainConfig alone."""
    defaults = {f.name: f.default for f in fields(TrainConfig)}
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument("--data", metavar="SPEC", help=SPECS)
    parser.add_argument("--out", type=Path, metavar="RUN_DIR", help="a new directory for the run")
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="RUN_DIR",
        help="go on with a run that was stopped, with its own settings",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE.toml", help="settings by name; flags win over it"
    )
    parser.add_argument(
        "--pretrained",
        nargs="?",
        const="hub",
        metavar="FILE",
        help="timm networks: begin with published weights, or with those of a file",
    )
    for name, text in CHOICES.items():
        parser.add_argument(flag(name), choices=choices_of(name), help=text)
    for name, text in SWITCHES.items():
        parser.add_argument(flag(name), action=argparse.BooleanOptionalAction, help=text)
    for name, text in FLAGS.items():
        kind = kind_of(name)
        shown = "" if "(" in text or defaults[name] is None else f" ({defaults[name]})"
        many: dict[str, Any] = {"type": float, "nargs": "+"} if kind is tuple else {"type": kind}
        parser.add_argument(flag(name), help=text + shown, **many)


def run(args: argparse.Namespace) -> int:
    """Train; the last line of stdout is the run directory."""
    flags = vars(args)
    if "resume" in flags:
        refuse_new_settings(flags)

    import torch

    from trainer.run import resume, train

    try:
        if "resume" in flags:
            run_dir = resume(flags.pop("resume"), **flags)
        else:
            file: Path | None = flags.pop("config", None)
            run_dir = train(build_config(merged(read_toml(file) if file else {}, flags)))
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


def flag(name: str) -> str:
    """A setting's name on the command line."""
    return f"--{name.replace('_', '-')}"


def refuse_new_settings(flags: dict[str, Any]) -> None:
    """Raise InvalidConfig if --resume comes with what would make it another run."""
    others = sorted(flags.keys() - RESUMABLE - {"resume"})
    if others:
        raise InvalidConfig(
            f"--resume goes on with the run's own settings; {', '.join(map(flag, others))} cannot "
            f"be changed, only {', '.join(map(flag, sorted(RESUMABLE)))}"
        )


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
    if "lr_steps" in settings:
        settings = {**settings, "lr_steps": tuple(settings["lr_steps"])}
    return TrainConfig(**settings)
