"""What every process of the product does alike: obey signals, print safely, end with a code.

A terminal obeys control characters: they move the cursor, change its title, hide what was printed
or send keys back. Marks for right-to-left writing show a name in another order than it has.

SIGHUP says that a terminal or a session has gone: to end in order is right then, since nobody can
ask for it any more. Under `nohup`, which ignores it, it stays ignored.
"""

import codecs
import contextlib
import errno
import functools
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

from snapensemble.contracts.errors import (
    SnapensembleError,
    WriteFailed,
    memory_lacking,
    message_of,
)
from snapensemble.contracts.files import why_unwritten

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXTRAS = (
    "install snapensemble[train] to train, export and evaluate, snapensemble[serving] to serve "
    "and predict, snapensemble[client] to ask a server, all three for the demo"
)
PATIENCE_S = 5.0  # after which people want to know how far something is

T = TypeVar("T")


class Stopped(BaseException):
    """A signal asked this process to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


@dataclass
class Deferred:
    """The signal that has come while signals are held back; 0 is none."""

    signum: int = 0

    def raise_if_received(self) -> None:
        """Raise Stopped if a signal has come; to be called where stopping is safe."""
        if self.signum:
            raise Stopped(self.signum)


_raised = Deferred()  # the signal for which `_stop` has raised Stopped


def printable(text: str) -> str:
    r"""One line of characters that show as what they are; others as `\x1b` or `\u202e`.

    Those are controls, marks, surrogates, what Unicode has not assigned, and all spaces but one.
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def printable_lines(text: str) -> str:
    """Several lines, each of them printable; line ends stay."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(text: str) -> str:
    r"""The same JSON document, with characters that would not show as `\u001b`."""
    return "".join(
        each if each == "\n" or each.isprintable() else json.dumps(each)[1:-1] for each in text
    )


def say(message: str) -> None:
    """Write a line, or several, to standard error."""
    with contextlib.suppress(OSError):  # the terminal may have gone
        sys.stderr.write(f"{printable_lines(message)}\n")


@functools.cache
def say_once(message: str) -> None:
    """Write a message that this process has not written before."""
    say(message)


def noting_progress(
    items: Sequence[T],
    what: str,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[T]:
    """Yield the items; say how many are done whenever five seconds have passed."""
    told = clock()
    for done, item in enumerate(items):
        if done and clock() - told >= PATIENCE_S:
            say(f"{done} of {len(items)} {what}")
            told = clock()
        yield item


def signals_to_obey() -> list[signal.Signals]:
    """The members of `SIGNALS` that end this process: all, but for SIGHUP under `nohup`."""
    hangup_is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [each for each in SIGNALS if not (each is signal.SIGHUP and hangup_is_ignored)]


def raise_on_signals() -> None:
    """Make the signals of `signals_to_obey` raise Stopped in the main thread from now on."""
    _raised.signum = 0
    for signum in signals_to_obey():
        signal.signal(signum, _stop)


def raise_if_stopped() -> None:
    """Raise Stopped anew if a signal has come: a library may have dropped the first one."""
    _raised.raise_if_received()


@contextmanager
def signals_deferred() -> Iterator[Deferred]:
    """Hold the signals of `signals_to_obey` back, so that they interrupt nothing half done.

    The end of the block raises Stopped if a signal has come, and a second signal ends the process
    at once. Outside the main thread, where Python handles no signals, nothing is held back.
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


@contextmanager
def signals_of_caller() -> Iterator[None]:
    """Run what obeys signals by itself inside a program that has handlers of its own.

    They are put back at the end. Where a signal has ended the block, the caller's handler gets it
    then: Ctrl-C is a KeyboardInterrupt, as everywhere in Python.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}

    def put_back() -> None:
        for signum, handler in before.items():
            if handler is not None:  # None: it is no handler of Python's
                signal.signal(signum, handler)

    try:
        yield
    except Stopped as stopped:
        put_back()
        signal.raise_signal(stopped.signum)
        raise
    finally:
        put_back()


def exit_code(name: str, command: Callable[[], int]) -> int:
    """Run a command; what a user can mend becomes one line on stderr.

    Args:
        name: of the command; messages begin with it.
        command: gives the exit code where nothing goes wrong.

    Returns:
        That code; 2 after an error that the user can mend; 130, 143 or 129 after
        SIGINT, SIGTERM or SIGHUP.
    """
    try:
        return _ended(command)
    except SnapensembleError as error:
        _report(name, error)
        return 2
    except ModuleNotFoundError as error:
        _report(name, SnapensembleError(f"the package {error.name!r} is not installed; {EXTRAS}"))
        return 2
    except (MemoryError, RuntimeError) as error:
        if (lacking := memory_lacking(error)) is None:
            raise
        _report(name, lacking)
        return 2
    except BrokenPipeError:  # whoever read the output has left (`| head`)
        _drop_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _drop_output()
            _report(name, WriteFailed(why_unwritten(error)))
        elif error.errno is None:  # raised by a library, not by the system
            raise
        else:
            place = "" if error.filename is None else f"{error.filename}: "
            if isinstance(error, FileNotFoundError) and not place:  # only os.getcwd names no file
                place = "the working directory: "
            _report(name, SnapensembleError(f"{place}{error.strerror}"))
        return 2
    except Stopped as stopped:
        _report(name, stopped)
        return 128 + stopped.signum


def _ended(command: Callable[[], int]) -> int:
    """The exit code of a command; Stopped where a signal came, whatever error became of that.

    A library may turn what interrupts it into an error of its own: to import ONNX Runtime fails.
    """
    try:
        return command()
    except Exception:
        _raised.raise_if_received()
        raise


def open_standard_streams() -> None:
    r"""Open descriptors 0, 1 and 2 on the null device where the caller has closed them.

    Otherwise the next files and sockets would take these numbers, and whoever writes to standard
    error would write into them. What standard output has no character for becomes `\u00e9`, which
    JSON reads as well.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            # It takes the lowest free number, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:  # Python found it closed
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # a program that calls this may have replaced it
        codecs.register_error("snapensemble.json", _as_json)
        sys.stdout.reconfigure(errors="snapensemble.json")


def _as_json(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that an encoding has not."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def _stop(signum: int, _frame: FrameType | None) -> None:
    _kill_on_signals()
    _raised.signum = signum
    raise Stopped(signum)


def _kill_on_signals() -> None:
    """Let a second signal end the process at once, without the orderly way that has begun."""
    for each in signals_to_obey():
        signal.signal(each, signal.SIG_DFL)


def _drop_output() -> None:
    """Drop what could not be written to stdout, or Python's own flush at exit would fail too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(name: str, error: BaseException) -> None:
    say(f"{name}: {message_of(error)}")
