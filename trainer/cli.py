"""`snapensemble train`: flags and a TOML file -> TrainConfig -> train()."""

import argparse
from pathlib import Path
from typing import Any

from snapensemble.contracts.cluster.options import RayOptions
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.options import add_options, build, flag
from snapensemble.contracts.run import read_run
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.config_file import read_toml

BUDGET = {"cycles", "epochs", "minutes"}
RAY = RayOptions.model_fields.keys()
# What may change when a run goes on.
RESUMABLE = {"data", "device", "threads", "checkpoint_minutes", "compile"}
MORE_CYCLES, CYCLE, RUNS = "more_cycles", "cycle", "runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `snapensemble train`."""
    parser.argument_default = argparse.SUPPRESS
    add_options(parser, TrainConfig)
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="RUN_DIR",
        help="go on with a run that was stopped, with its own settings",
    )
    parser.add_argument(
        flag(MORE_CYCLES),
        type=positive,
        metavar="K",
        help="with --resume: add K cycles to the run, finished or not",
    )
    parser.add_argument(
        "--branch",
        type=Path,
        metavar="RUN_DIR",
        help="train one cycle of a run whose cycles all begin with the first one's weights, in an "
        "--out of its own; export takes all of them together",
    )
    parser.add_argument(
        flag(CYCLE), type=positive, metavar="K", help="with --branch: which cycle, from 1"
    )
    parser.add_argument(
        flag(RUNS),
        type=positive,
        metavar="N",
        help="train N runs with the seeds from --seed on, in OUT/seed-0 and so on; the same "
        "command goes on where it was stopped",
    )
    add_options(parser, RayOptions)
    parser.add_argument(
        "--config", type=Path, metavar="FILE.toml", help="settings by name; flags win over it"
    )


def run(args: argparse.Namespace) -> int:
    """Train; the last line of stdout is the run directory."""
    flags = vars(args)
    ray = build(RayOptions, {name: flags.pop(name) for name in RAY & flags.keys()})
    is_several = RUNS in flags or ("branch" in flags and CYCLE not in flags)
    if ray.ray is not None and not is_several:
        raise InvalidConfig(
            "--ray trains several runs: give --runs N, or --branch RUN_DIR without --cycle"
        )
    if "resume" in flags:
        refuse_new_settings(flags, "resume", {MORE_CYCLES})
    elif "branch" in flags:
        refuse_new_settings(flags, "branch", {CYCLE, "out"})
        needed = {"out"} if ray.ray else {CYCLE, "out"}
        if missing := needed - flags.keys():
            raise InvalidConfig(f"--branch needs {' and '.join(map(flag, sorted(missing)))} too")
    elif MORE_CYCLES in flags:
        raise InvalidConfig(
            "--more-cycles adds to a run that is there: name it by --resume RUN_DIR"
        )
    elif CYCLE in flags:
        raise InvalidConfig("--cycle is one of a run that is there: name it by --branch RUN_DIR")

    from snapensemble.trainer.run import branch, resume, train

    if RUNS in flags or ray.ray is not None:
        return run_several(flags, ray)
    if "resume" in flags:
        run_dir = resume(flags.pop("resume"), **flags)
    elif "branch" in flags:
        run_dir = branch(flags.pop("branch"), flags.pop(CYCLE), Path(flags.pop("out")), **flags)
    else:
        file = flags.pop("config", None)
        run_dir = train(build_config(flags, file))
    for snapshot in read_run(run_dir).snapshots:
        print(f"cycle {snapshot.cycle}  validation: {snapshot.val.in_words}  {snapshot.file}")
    print(run_dir)
    return 0


def run_several(flags: dict[str, Any], ray: RayOptions) -> int:
    """Train several runs, here or on a cluster; stdout has their directories."""
    from snapensemble.trainer.many.runs import branches, seeds
    from snapensemble.trainer.many.together import train_all

    if "branch" in flags:
        runs = branches(flags.pop("branch"), Path(flags.pop("out")), flags)
    else:
        count, file = flags.pop(RUNS), flags.pop("config", None)
        runs = seeds(build_config(flags, file), count)
    for run_dir in train_all(runs, ray):
        print(run_dir)
    return 0


def positive(text: str) -> int:
    """The whole number, at least 1, that a flag of the command line gives."""
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number, at least 1, got {text!r}")
    return int(text)


def refuse_new_settings(flags: dict[str, Any], command: str, own: set[str]) -> None:
    """Raise InvalidConfig if --resume or --branch comes with what would make it another run."""
    others = sorted(flags.keys() - RESUMABLE - own - {command})
    if others:
        raise InvalidConfig(
            f"{flag(command)} goes on with the run's own settings; "
            f"{', '.join(map(flag, others))} cannot be changed, only "
            f"{', '.join(map(flag, sorted(RESUMABLE)))}"
        )


def merged(file: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """The file's settings under the flags; a budget among the flags replaces the file's."""
    if flags.keys() & BUDGET:
        file = {name: value for name, value in file.items() if name not in BUDGET}
    return {**file, **flags}


def build_config(flags: dict[str, Any], file: Path | None = None) -> TrainConfig:
    """A TrainConfig from flags and the settings of a file.

    Raises:
        InvalidConfig: a required setting is missing, or a value cannot work; the message names the
            flag or the file.
    """
    settings = {} if file is None else read_toml(file)

    def word(name: str) -> str:
        return f"{name} in {file}" if name in settings.keys() - flags.keys() else flag(name)

    return build(TrainConfig, merged(settings, flags), word)
