"""How a command line ends; each in a process of its own."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from snapensemble.contracts.process import noting_progress

PROGRAM = """
import os, sys
from snapensemble.contracts.process import exit_code, open_standard_streams
open_standard_streams()
{body}
"""


def run(body: str, shell: str = "") -> subprocess.CompletedProcess[str]:
    """A program that a shell has started with such redirections."""
    code = PROGRAM.replace("{body}", body)
    return subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {shell}', sys.executable, code],
        capture_output=True,
        text=True,
    )


def test_output_to_a_full_disk_is_one_line_and_no_traceback() -> None:
    body = "sys.exit(exit_code('it', lambda: print('x' * 100_000, flush=True) or 0))"
    done = run(body, ">/dev/full")
    assert done.returncode == 2
    assert done.stderr == "it: the disk is full; free some space\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("MemoryError()", "there is too little memory"),
        ("MemoryError('Unable to allocate 2 GiB')", "there is too little memory: Unable to"),
        (
            "RuntimeError('[enforce fail] err. DefaultCPUAllocator: can\\'t allocate memory: you')",
            "there is too little memory: can't allocate memory: you",
        ),
    ],
)
def test_too_little_memory_is_one_line_and_no_traceback(error: str, said: str) -> None:
    body = f"def command(): raise {error}\nsys.exit(exit_code('it', command))"
    done = run(body)
    assert done.returncode == 2
    assert done.stderr.startswith(f"it: {said}") and done.stderr.count("\n") == 1


def test_an_error_of_the_program_itself_keeps_its_traceback() -> None:
    done = run("def command(): raise RuntimeError('broken')\nsys.exit(exit_code('it', command))")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_streams_that_the_caller_has_closed_are_never_another_file() -> None:
    body = "sys.exit(os.open('/dev/null', os.O_RDONLY) < 3 or os.system('true >&2 <&0') != 0)"
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        assert run(body, closed).returncode == 0, closed


def test_messages_and_output_to_closed_streams_are_dropped() -> None:
    body = "from snapensemble.contracts.process import say; say('x'); print('y', flush=True); "
    body += "sys.exit(exit_code('it', lambda: os.stat('absent')))"
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        assert run(body, closed).returncode == 2, closed


def test_characters_that_the_terminal_has_not_are_shown_as_json_does() -> None:
    body = "print(chr(233) + chr(0x1F40D)); print(json.dumps(chr(233), ensure_ascii=False))"
    code = PROGRAM.replace("{body}", f"import json; {body}")
    shell = ["env", "PYTHONIOENCODING=ascii", sys.executable, "-c", code]
    done = subprocess.run(shell, capture_output=True, text=True)
    assert done.stdout == '\\u00e9\\ud83d\\udc0d\n"\\u00e9"\n', done.stderr


def test_streams_that_are_open_stay_as_they_are() -> None:
    done = run("os.write(1, b'out'); os.write(2, b'err')")
    assert (done.stdout, done.stderr) == ("out", "err")


def test_progress_is_told_when_five_seconds_have_passed_and_not_before() -> None:
    said: list[str] = []
    # At the start, after each item, and again when something was told.
    clock = iter([0.0, 1.0, 5.5, 5.5, 6.5, 12.5, 12.5]).__next__
    assert list(noting_progress("abcde", "are done", said.append, clock)) == list("abcde")
    assert said == ["2 of 5 are done", "4 of 5 are done"]


def test_what_the_system_refuses_is_one_line_with_the_path_and_no_traceback() -> None:
    body = "sys.exit(exit_code('it', lambda: os.stat('x' * 300)))"
    done = run(body)
    assert done.returncode == 2
    assert done.stderr == f"it: {'x' * 300}: File name too long\n"
    done = run("sys.exit(exit_code('it', lambda: os.read(99, 1)))")
    assert (done.returncode, done.stderr) == (2, "it: Bad file descriptor\n")


def test_a_working_directory_that_was_removed_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    body = f"os.chdir('{tmp_path}/gone'); os.rmdir('{tmp_path}/gone'); "
    done = run(body + "sys.exit(exit_code('it', lambda: len(os.getcwd())))")
    assert done.stderr == "it: the working directory: No such file or directory\n"


INTERRUPTED = """
import signal
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.process import raise_on_signals

def command():
    try:
        signal.raise_signal(signal.SIGTERM)
    except BaseException as error:
        raise {error}

raise_on_signals()
sys.exit(exit_code("it", command))
"""


@pytest.mark.parametrize(
    "error",
    [
        "ImportError('initialization failed')",
        "ModuleNotFoundError('x', name='x') from error",
        "InvalidConfig('no number')",
        "OSError(28, 'No space left on device')",
    ],
)
def test_who_is_stopped_by_a_signal_says_so_whatever_error_a_library_makes_of_it(
    error: str,
) -> None:
    done = run(INTERRUPTED.replace("{error}", error))
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "it: stopped by SIGTERM\n")


DROPPED = """
import signal
from snapensemble.contracts.process import raise_if_stopped, raise_on_signals

class Dropped:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)  # nobody sees what is raised here

def command():
    raise_if_stopped()
    sys.unraisablehook = lambda _: None
    one = Dropped()
    del one
    raise_if_stopped()
    return 0

raise_on_signals()
sys.exit(exit_code("it", command))
"""


def test_a_signal_that_a_library_has_dropped_stops_all_the_same() -> None:
    done = run(DROPPED)
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "it: stopped by SIGTERM\n")
