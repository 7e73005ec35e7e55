"""How every command line ends: a message on stderr and an exit code."""

import os
import signal
import sys
from collections.abc import Callable

from contracts.errors import SnapensembleError, message_of
from contracts.stopping import Stopped
from contracts.text import printable_lines

EXTRAS = (
    "install snapensemble[train] to train, export and evaluate, snapensemble[serving] to serve "
    "and predict, both for the demo"
)


def exit_code(name: str, command: Callable[[], int]) -> int:
    """Run a command; what a user can mend becomes one line on stderr.

    Args:
        name: of the command, as the message begins.
        command: gives the exit code where nothing goes wrong.

    Returns:
        That code; 2 after an error that the user can mend; 130 or 143 after SIGINT or SIGTERM.
    """
    try:
        return command()
    except SnapensembleError as error:
        _say(name, error)
        return 2
    except ModuleNotFoundError as error:
        _say(name, SnapensembleError(f"the package {error.name!r} is not installed; {EXTRAS}"))
        return 2
    except BrokenPipeError:
        # Whoever read the output has left (`| head`); Python's own flush at exit must not fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Stopped as stopped:
        _say(name, stopped)
        return 128 + stopped.signum


def _say(name: str, error: BaseException) -> None:
    print(printable_lines(f"{name}: {message_of(error)}"), file=sys.stderr)
