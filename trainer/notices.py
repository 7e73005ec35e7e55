"""What a person should know but need not act on, on the error stream."""

import functools
import sys


def say(message: str) -> None:
    """Write a line, or several."""
    sys.stderr.write(f"{message}\n")


@functools.cache
def say_once(message: str) -> None:
    """Write a message that this process has not written before."""
    say(message)
