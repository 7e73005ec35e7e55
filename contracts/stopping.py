"""SIGINT and SIGTERM as an exception, at once or where a loop can bear it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def signals_deferred() -> Iterator[Callable[[], None]]:
    """Hold SIGINT and SIGTERM back, so that they interrupt nothing half done.

    Yields:
        A function to call where stopping is safe: it raises Stopped if a signal has come. The end
        of the block raises it too. A second signal ends the process at once. Outside the main
        thread, where Python handles no signals, nothing is held back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    received: list[int] = []

    def note(signum: int, _frame: FrameType | None) -> None:
        _kill_on_signals()
        received.append(signum)

    def check() -> None:
        if received:
            raise Stopped(received[0])

    before = {signum: signal.signal(signum, note) for signum in SIGNALS}
    try:
        yield check
        check()
    finally:
        if not received:
            for signum, handler in before.items():
                signal.signal(signum, handler)


def _stop(signum: int, _frame: FrameType | None) -> None:
    _kill_on_signals()
    raise Stopped(signum)


def _kill_on_signals() -> None:
    """A second signal ends the process, without the orderly way that has just begun."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)
