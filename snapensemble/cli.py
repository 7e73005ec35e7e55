"""`snapensemble`: one console script, one subcommand per job.

Heavy imports happen inside a subcommand, so `serve` and `predict` run where torch is absent.
"""

import argparse
import importlib
import sys
from collections.abc import Mapping
from importlib.metadata import version
from types import ModuleType

from snapensemble.contracts.process import exit_code, open_standard_streams, raise_on_signals

COMMANDS = {
    "train": ("snapensemble.trainer.cli", "train with SGDR, one snapshot per cycle"),
    "export": ("snapensemble.export.cli", "turn the best snapshots into a bundle of ONNX members"),
    "evaluate": ("snapensemble.evaluate", "measure a bundle on a data set, as it is served"),
    "report": ("snapensemble.report.cli", "draw a run or a bundle on one page"),
    "suspects": ("snapensemble.suspects", "list labels that may be wrong, and pictures kept twice"),
    "bom": ("snapensemble.bom", "list what is in a bundle, as a CycloneDX ML-BOM"),
    "sign": ("snapensemble.sign", "sign a bundle, so that a server serves yours and no other"),
    "serve": ("snapensemble.serving.cli", "answer images over HTTP"),
    "predict": ("snapensemble.predict", "classify image files with a bundle or a server"),
    "bench": ("snapensemble.bench.cli", "measure how fast a bundle answers, here and over HTTP"),
    "demo": ("snapensemble.demo", "train, export, serve and ask, on the embedded digits"),
    "completion": ("snapensemble.completion", "print what completes commands and flags in a shell"),
}


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand.

    Returns:
        The exit code: 0; 2 after an error that the user can mend; 130, 143 or 129 after SIGINT,
        SIGTERM or SIGHUP.
    """
    open_standard_streams()
    argv = sys.argv[1:] if argv is None else argv
    command = argv[0] if argv and argv[0] in COMMANDS else None
    raise_on_signals()
    return exit_code(f"snapensemble {command}", lambda: _run(command, argv))


def _run(command: str | None, argv: list[str]) -> int:
    if command is None:
        parser_of({}).parse_args(argv)  # prints help or version, or says what is wrong
        return 2
    module = importlib.import_module(COMMANDS[command][0])
    args = parser_of({command: module}).parse_args(argv)
    del args.command
    return int(module.run(args))


def parser_of(modules: Mapping[str, ModuleType]) -> argparse.ArgumentParser:
    """The parser of the command line; only commands whose modules are given have flags."""
    parser = argparse.ArgumentParser(
        prog="snapensemble", description="Train 1, get M for free; serve M for the price of 1."
    )
    parser.add_argument("--version", action="version", version=version("snapensemble"))
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:])
        if name in modules:
            modules[name].add_arguments(subparser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
