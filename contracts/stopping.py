"""SIGINT and SIGTERM as an exception, at once or where a loop can bear it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal asked this process to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def raise_on_signals() -> None:
    """From now on SIGINT and SIGTERM raise Stopped in the main thread."""
    for signum in SIGNALS:
        signal.signal(signum, _stop)


@dataclass
class Deferred:
    """The signal that has come while signals are held back; 0 is none."""

    signum: int = 0

    def raise_if_received(self) -> None:
        """Raise Stopped if one has; to be called where stopping is safe."""
        if self.signum:
            raise Stopped(self.signum)


@contextmanager
def signals_deferred() -> Iterator[Deferred]:
    """Hold SIGINT and SIGTERM back, so that they interrupt nothing half done.

    The end of the block raises Stopped if one has come. A second signal ends the process at once.
    Outside the main thread, where Python handles no signals, nothing is held back.
    """
    deferred = Deferred()
    if threading.current_thread() is not threading.main_thread():
        yield deferred
        return

    def note(signum: int, _frame: FrameType | None) -> None:
        _kill_on_signals()
        deferred.signum = signum

    before = {signum: signal.signal(signum, note) for signum in SIGNALS}
    try:
        yield deferred
        deferred.raise_if_received()
    finally:
        if not deferred.signum:
            for signum, handler in before.items():
                signal.signal(signum, handler)


def _stop(signum: int, _frame: FrameType | None) -> None:
    _kill_on_signals()
    raise Stopped(signum)


def _kill_on_signals() -> None:
    """A second signal ends the process, without the orderly way that has just begun."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)
