"""A process ends in time whatever its threads do; each case in a process of its own."""

import signal
import subprocess
import sys

import pytest

from benchmarks.children import ended
from snapensemble.serving.process.watchdog import CUT_OFF

PROGRAM = """
import logging, os, signal, sys, threading, time
from snapensemble.serving.shutdown import Shutdown
from snapensemble.serving.process.watchdog import ended_in_time

logging.basicConfig(level=logging.INFO)
shutdown = Shutdown(shutdown_s=0.1, second_ends=False)
signal.signal(signal.SIGTERM, shutdown.stop)

def stuck():
    threading.Event().wait()

def in_a_thread():
    thread = threading.Thread(target=stuck, name="lane-7")
    thread.start()
    thread.join()

def with_pythons_lock():  # as a decoder or a parser in C may have it
    sys.setswitchinterval(1e6)
    while not shutdown.stopping:
        pass
    threading.Event().wait(0.05)  # the watchdog hears of it, and then nobody has a turn
    sum(iter(int, 1))

def with_the_log():  # whose reader does not read on
    with logging.getLogger().handlers[0].lock:
        stuck()

def ends():
    while not shutdown.stopping:
        time.sleep(0.001)

with ended_in_time(shutdown, margin_s=0.1, at_last=lambda: os.write(1, b"at last ")):
    os.write(1, b"ready ")
    {case}()
"""


def run(case: str) -> tuple[int, str, str]:
    """Exit code, output and log of a process that is asked to end."""
    with ended(
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM.replace("{case}", case)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(6) == "ready "
        process.send_signal(signal.SIGTERM)
        out, log = process.communicate(timeout=60)
        return process.returncode, out, log


def test_threads_that_do_not_end_are_left_behind_and_named() -> None:
    code, out, log = run("in_a_thread")
    assert (code, out) == (CUT_OFF, "at last ")
    assert "ended by force, exit code 1" in log and "lane-7 in " in log


@pytest.mark.parametrize("case", ["with_pythons_lock", "with_the_log"])
def test_nothing_that_a_thread_holds_keeps_it(case: str) -> None:
    assert run(case)[0] == CUT_OFF


def test_one_that_ends_in_time_is_left_alone() -> None:
    assert run("ends") == (0, "", "")
