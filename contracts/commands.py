"""How every command line ends: a message on stderr and an exit code."""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable

from contracts.errors import SnapensembleError, WriteFailed, message_of
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
        That code; 2 after an error that the user can mend; 130, 143 or 129 after
        SIGINT, SIGTERM or SIGHUP.
    """
    try:
        return command()
    except SnapensembleError as error:
        _say(name, error)
        return 2
    except ModuleNotFoundError as error:
        _say(name, SnapensembleError(f"the package {error.name!r} is not installed; {EXTRAS}"))
        return 2
    except BrokenPipeError:  # whoever read the output has left (`| head`)
        _say_nothing_more()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _say_nothing_more()
        _say(name, WriteFailed(f"cannot write: {error.strerror}; free some space"))
        return 2
    except Stopped as stopped:
        _say(name, stopped)
        return 128 + stopped.signum


def _say_nothing_more() -> None:
    """Python's own flush of what could not be written, at exit, must not fail too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(name: str, error: BaseException) -> None:
    with contextlib.suppress(OSError):  # the terminal may have gone
        print(printable_lines(f"{name}: {message_of(error)}"), file=sys.stderr)


def open_standard_streams() -> None:
    """Give 0, 1 and 2 to nothing where the caller has closed them.

    Otherwise the next files and sockets take these numbers, and whoever writes to standard error
    writes into them.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # It takes the lowest free number, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
