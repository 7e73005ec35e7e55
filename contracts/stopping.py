"""SIGINT, SIGTERM and SIGHUP as an exception, at once or where a loop can bear it.

SIGHUP says that a terminal or a session has gone: to end in order is right then, since nobody can
ask for it any more. Under `nohup`, which ignores it, it stays ignored.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal asked this process to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def signals_to_obey() -> list[signal.Signals]:
    """Those of `SIGNALS` that end this process: all, but for SIGHUP under `nohup`."""
    hangup_is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [each for each in SIGNALS if not (each is signal.SIGHUP and hangup_is_ignored)]


def raise_on_signals() -> None:
    """From now on these signals raise Stopped in the main thread."""
    for signum in signals_to_obey():
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
    """Hold these signals back, so that they interrupt nothing half done.

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

    before = {signum: signal.signal(signum, note) for signum in signals_to_obey()}
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
    for each in signals_to_obey():
        signal.signal(each, signal.SIG_DFL)
