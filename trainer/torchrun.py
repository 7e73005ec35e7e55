"""What torchrun starts as `-m snapensemble.trainer`; it takes the flags of `snapensemble train`."""

import argparse
import os
from pathlib import Path

from snapensemble.contracts.process import exit_code, raise_on_signals
from snapensemble.contracts.run import RUN_FILE
from snapensemble.trainer import cli
from snapensemble.trainer.config_file import read_toml


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
    return cli.run(resumed_after_restart(parser.parse_args()))


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
