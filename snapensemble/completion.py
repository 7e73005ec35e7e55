"""`snapensemble completion`: a script that completes commands, flags and their values in a shell.

The script holds them all, so that no Python starts when somebody presses Tab.
"""

import argparse
import importlib
import re
from collections.abc import Iterator

import shtab

from snapensemble.cli import COMMANDS, parser_of

SHELLS = ("bash", "zsh")
DIRECTORIES = {"DIR", "RUN_DIR", "BUNDLE_DIR"}
FILES = {"FILE", "FILE.toml", "IMAGE", "KEY", "PRIVATE.pem", "SPEC"}
_CHOICES = re.compile(r"{(\w+(?:,\w+)+)}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `snapensemble completion`."""
    parser.add_argument(
        "shell", choices=SHELLS, help='for bash: eval "$(snapensemble completion bash)"'
    )


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    print(script(args.shell))
    return 0


def script(shell: str) -> str:
    """The script for a shell, of the commands whose packages are installed."""
    parser = whole_parser()
    for action in actions(parser):
        complete_values(action)
    text: str = shtab.complete(parser, shell)
    return text


def whole_parser() -> argparse.ArgumentParser:
    """The parser with the flags of all commands that can run here."""
    modules = {}
    for command, (module, _) in COMMANDS.items():
        try:
            modules[command] = importlib.import_module(module)
        except ModuleNotFoundError:  # of an extra; the command would say so
            continue
    return parser_of(modules)


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield all arguments and flags of a parser and its commands."""
    for action in parser._actions:  # argparse has no other way
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from actions(subparser)


def complete_values(action: argparse.Action) -> None:
    """Let what follows a flag be completed: the choices that its metavar shows, or files."""
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    if (found := _CHOICES.fullmatch(metavar)) is not None:
        action.choices = found[1].split(",")
    elif metavar in DIRECTORIES:
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined] # shtab looks for it
    elif metavar in FILES:
        action.complete = shtab.FILE  # type: ignore[attr-defined]
