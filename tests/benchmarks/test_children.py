import signal
import subprocess
import sys

import pytest

from benchmarks import children
from benchmarks.children import ended

FOR_EVER = "import sys, time; print('there', flush=True); time.sleep(600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {FOR_EVER}"


def started(program: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "there\n"
    return process


def test_a_check_that_fails_is_not_kept_waiting_by_the_process_it_is_about() -> None:
    process = started(FOR_EVER)
    with pytest.raises(AssertionError), ended(process):
        raise AssertionError
    assert process.returncode == -signal.SIGTERM


def test_one_that_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "PATIENCE_S", 0.01)
    process = started(DEAF)
    with ended(process):
        pass
    assert process.returncode == -signal.SIGKILL


def test_one_that_has_ended_keeps_its_exit_code() -> None:
    with ended(started("print('there', flush=True); raise SystemExit(3)")) as process:
        process.wait()
    assert process.returncode == 3
