"""SIGINT and SIGTERM as an exception, so that every `with` and `finally` runs."""

import signal
from types import FrameType


class Stopped(BaseException):
    """A signal asked this process to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def raise_on_signals() -> None:
    """From now on SIGINT and SIGTERM raise Stopped in the main thread."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _stop)


def _stop(signum: int, _frame: FrameType | None) -> None:
    # A second signal ends the process at once, without the orderly way that has just begun.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)
    raise Stopped(signum)
