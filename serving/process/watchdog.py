"""Ends a process that does not end by itself in the time that was promised.

Lanes may be in a decoder, threads in a system call, the log's reader may have stopped reading:
nothing here waits for any of them.
"""

import contextlib
import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator

from snapensemble.serving.shutdown import Shutdown

CUT_OFF = 1  # the exit code of a process that had to leave something behind
LAST_WORDS_S = 0.1  # for the last line of the log
BACKSTOP_S = 0.15  # how much later than the thread, which needs Python's lock
log = logging.getLogger("snapensemble")


@contextlib.contextmanager
def ended_in_time(
    shutdown: Shutdown, *, margin_s: float = 0.4, at_last: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """End the process, with `CUT_OFF`, if after a signal the body does not end within its time.

    Args:
        shutdown: knows the signal and the time.
        margin_s: how much later than the last request's time the process is ended.
        at_last: called before the process ends by force; must not wait for anything.
    """
    is_over = threading.Event()

    def watch() -> None:
        shutdown.wait_for_the_stop()
        if is_over.is_set():
            return
        left_s = shutdown.left_s + margin_s
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 # what reads stderr may not read on
            # A thread in C, for the case that one in Python never gets its turn.
            faulthandler.dump_traceback_later(left_s + BACKSTOP_S, exit=True, file=nowhere)
            if not is_over.wait(left_s):
                at_last()
                _log_in_time(what_is_left())
                os._exit(CUT_OFF)
            faulthandler.cancel_dump_traceback_later()

    watcher = threading.Thread(target=watch, name="watchdog", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        if shutdown.stopping:  # or else the thread waits for a signal, and harms nobody
            watcher.join()


def what_is_left() -> str:
    """The threads that still run, and where each of them is."""
    frames = sys._current_frames()
    others = [
        f"{thread.name} in {frames[thread.ident].f_code.co_qualname}"
        for thread in threading.enumerate()
        if thread is not threading.current_thread() and thread.ident in frames
    ]
    return ", ".join(others)


def _log_in_time(left: str) -> None:
    """Log what is left, unless that takes long: another thread may hold the log for good."""
    text = "not ended in time after the signal, so ended by force, exit code %d; left behind: %s"

    def write() -> None:
        log.error(text, CUT_OFF, left)
        logging.shutdown()  # writes what waits

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    writer.join(LAST_WORDS_S)
