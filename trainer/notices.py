"""What a person should know but need not act on, on the error stream."""

import contextlib
import functools
import sys

from contracts.text import printable_lines


def say(message: str) -> None:
    """Write a line, or several."""
    with contextlib.suppress(OSError):  # nobody may be there to read it
        sys.stderr.write(f"{printable_lines(message)}\n")


@functools.cache
def say_once(message: str) -> None:
    """Write a message that this process has not written before."""
    say(message)
