"""What torchrun starts as `-m snapensemble.trainer`; it takes the flags of `snapensemble train`."""

import argparse
import os
from pathlib import Path

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.process import exit_code, raise_on_signals
from snapensemble.contracts.run import RUN_FILE, read_run
from snapensemble.trainer import cli
from snapensemble.trainer.config_file import read_toml

RANK, SIZE = ("RANK", "0"), ("WORLD_SIZE", "1")  # of the environment, with their defaults


def main() -> int:
    """Run the training command in one of torchrun's processes.

    Returns:
        0; 2 after an error that the user can mend; 130, 143 or 129 after
        SIGINT, SIGTERM or SIGHUP.
    """
    raise_on_signals()
    return exit_code("trainer", _run)


def _run() -> int:
    parser = argparse.ArgumentParser(
        prog="torchrun ... -m snapensemble.trainer",
        description="Train with SGDR in several processes, one snapshot per cycle.",
    )
    cli.add_arguments(parser)
    args = parser.parse_args()
    if hasattr(args, "branch"):
        return run_branches(args)
    return cli.run(resumed_after_restart(args))


def run_branches(args: argparse.Namespace) -> int:
    """Train all later cycles of a star, each process some of them, in OUT/cycle-01 and so on.

    The processes need nothing of each other, and each trains as if it were alone.

    Raises:
        InvalidConfig: --out is missing, or there is a --cycle.
    """
    if hasattr(args, "cycle") or not hasattr(args, "out"):
        raise InvalidConfig("torchrun trains all cycles of a --branch: give --out, and no --cycle")
    rank, size = (int(os.environ.get(name, default)) for name, default in (RANK, SIZE))
    os.environ[SIZE[0]] = "1"
    out, cycles = Path(args.out), read_run(args.branch).schedule.cycles
    for cycle in range(1 + rank, cycles, size):
        run_dir = out / f"cycle-{cycle:02d}"
        if (run_dir / RUN_FILE).exists():  # torchrun has started the job anew
            kept = {name: value for name, value in vars(args).items() if name in cli.RESUMABLE}
            cli.run(argparse.Namespace(resume=run_dir, **kept))
        else:
            cli.run(argparse.Namespace(**{**vars(args), "cycle": cycle, "out": run_dir}))
    return 0


def resumed_after_restart(args: argparse.Namespace) -> argparse.Namespace:
    """The same job as --resume, where torchrun has started it anew (`--max-restarts`).

    Cycles that the job was to add (`--more-cycles`) are in the run's plan by then and not added
    again.
    """
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    file: Path | None = getattr(args, "config", None)
    settings = cli.merged(read_toml(file) if file else {}, vars(args))
    out = settings.get("resume", settings.get("out"))
    if not restarted or out is None or not (Path(out) / RUN_FILE).exists():
        return args
    kept = {name: value for name, value in vars(args).items() if name in cli.RESUMABLE}
    return argparse.Namespace(resume=Path(out), **kept)
