"""`import snapensemble`: what is imported when, and train, export and load from end to end."""

import inspect
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import get_type_hints

import pytest

import snapensemble
from snapensemble.contracts.errors import InvalidConfig, InvalidData
from snapensemble.contracts.options import in_python_words
from snapensemble.contracts.process import SIGNALS, Stopped, signals_of_caller
from snapensemble.contracts.run import read_run
from snapensemble.export.config import ExportConfig, ExportOptions
from snapensemble.trainer.config import TrainConfig

HEAVY = ("numpy", "torch", "onnxruntime", "PIL", "pydantic", "httpx2", "scipy", "sklearn")


def loaded_after(statement: str) -> set[str]:
    """Which of the heavy packages a fresh interpreter has loaded after a statement."""
    script = f"{statement}\nimport sys\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return set(found.stdout.split())


def test_the_import_itself_imports_nothing_heavy() -> None:
    assert loaded_after("import snapensemble; dir(snapensemble); snapensemble.export") == set()


def test_a_client_needs_neither_numpy_nor_what_runs_networks() -> None:
    statement = "import snapensemble; snapensemble.Client('http://127.0.0.1:1').close()"
    assert loaded_after(statement) <= {"pydantic", "httpx2"}


def test_what_answers_needs_no_torch() -> None:
    assert "torch" not in loaded_after("import snapensemble; snapensemble.load")
    assert "torch" not in loaded_after("import snapensemble; snapensemble.train")


@pytest.mark.parametrize("name", snapensemble.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    found = getattr(snapensemble, name)
    assert inspect.getdoc(found)
    assert name in dir(snapensemble)


def test_another_name_is_not_there() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        snapensemble.trian  # type: ignore[attr-defined]  # noqa: B018


def test_export_is_a_function_whatever_has_been_imported() -> None:
    script = (
        "import snapensemble\n"
        "first = snapensemble.export\n"
        "import snapensemble.export.config\n"
        "from snapensemble import export\n"
        "assert callable(export) and export is first is snapensemble.export\n"
        "assert snapensemble.export.config.ExportConfig\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_help_shows_the_settings() -> None:
    shown = inspect.signature(snapensemble.train).parameters
    assert list(shown) == list(TrainConfig.model_fields)
    assert shown["momentum"].default == 0.9
    assert "settings: those of" in str(inspect.getdoc(snapensemble.train))


def test_type_checkers_know_every_setting_of_an_export() -> None:
    known = get_type_hints(ExportConfig)
    assert get_type_hints(ExportOptions) == {
        name: known[name] for name in ExportConfig.model_fields
    }


def test_from_a_data_set_to_an_answer(tmp_path: Path) -> None:
    run = snapensemble.train(
        data="digits", out=tmp_path / "run", model="tiny", cycles=2, cycle_epochs=1, threads=1
    )
    bundle = snapensemble.export(run, tmp_path / "bundle", select="all", report=False)
    assert snapensemble.export([run], str(bundle), force=True, report=False) == bundle
    with snapensemble.load(bundle) as ensemble:
        figures = ensemble.evaluate(limit=60)
        assert figures["images"] == 60 and figures["split"] == "test"
        assert ensemble.classes == tuple(map(str, range(10)))
    assert snapensemble.resume(run, more_cycles=1, threads=1) == run
    assert read_run(run).schedule.cycles == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"more_cycles": "x"}, "more_cycles: expected a whole number, at least 0, got 'x'"),
        ({"more_cycles": -1}, "more_cycles: expected a whole number, at least 0, got -1"),
        ({"run": 5}, "run: expected a path, got 5"),
        ({"more_cycles": 1, "batch_size": 8}, "own settings; batch_size cannot be changed, only"),
    ],
)
def test_a_run_goes_on_with_no_other_settings(
    digits_run: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidConfig, match=message):
        snapensemble.resume(**{"run": digits_run, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"runs": 5}, "runs: expected a list, each a path, got 5"),
        ({"runs": []}, "runs: expected a list, each a path, got \\[]"),
        ({"runs": ["a", 5]}, "runs: expected a list, each a path, got 5"),
        ({"out": None}, "out: expected a path, got None"),
        ({"out": "a\0b"}, "out: holds a NUL character"),
        ({"force": "maybe"}, "force: expected true or false, got 'maybe'"),
    ],
)
def test_what_is_no_place_of_an_export_is_named(places: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        snapensemble.export(**{"runs": "a", "out": "b", **places})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_max": "much"}, "lr_max: expected a finite number|lr_max: expected a number"),
        ({"cycles": 0}, "cycles: expected a whole number, from 1 to 10000, got 0"),
        ({"cylces": 3}, "there is no cylces"),
        ({"out": None}, "out: expected a path, got None"),
        ({"t_mult": 2.0, "epochs": 200, "cycle_epochs": 10}, "200 epochs ends inside a cycle"),
    ],
)
def test_a_wrong_setting_is_named_as_python_does(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    asked = {"data": "digits", "out": tmp_path / "run", **settings}
    with pytest.raises(InvalidConfig, match=message) as raised:
        snapensemble.train(**asked)
    assert "--" not in str(raised.value) and not (tmp_path / "run").exists()


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(InvalidConfig, match="^data is required"):
        snapensemble.train(out="x")  # type: ignore[call-arg]


def test_a_message_from_deep_inside_names_no_flag(tmp_path: Path, digits_run: Path) -> None:
    with pytest.raises(InvalidConfig, match="choose another out, or force to replace it"):
        snapensemble.export(digits_run, tmp_path)
    with pytest.raises(InvalidConfig, match="members 9: the run has 3 snapshots"):
        snapensemble.export(digits_run, tmp_path / "b", members=9, select="best")
    with pytest.raises(InvalidConfig, match="there is no memebers"):
        snapensemble.export(digits_run, tmp_path / "b", memebers=2)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--max-nll-rise 3: too much", "max_nll_rise 3: too much"),
        ("leave --no-report out", "leave report=False out"),
        ("--out: give (--force)", "out: give (force)"),
        ("run `snapensemble export RUN --out X --cascade`", None),
        ("a file a--b, a/--c and ---d", None),
    ],
)
def test_flags_become_arguments_and_command_lines_stay(text: str, expected: str | None) -> None:
    with pytest.raises(InvalidData) as raised, in_python_words():
        error = InvalidData(text)
        error.add_note(text)
        raise error
    assert str(raised.value) == (expected or text)
    assert raised.value.__notes__ == [expected or text]


def test_a_package_that_is_not_installed_is_said_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "snapensemble.trainer.run", raising=False)
    with pytest.raises(ModuleNotFoundError) as raised:
        snapensemble.train(data="digits", out=tmp_path / "run")
    assert "snapensemble[train]" in raised.value.__notes__[0]


def test_a_signal_of_ours_is_the_callers_again(signal_handlers: None) -> None:
    came: list[int] = []
    for signum in SIGNALS:
        signal.signal(signum, lambda number, _: came.append(number))
    mine = [signal.getsignal(signum) for signum in SIGNALS]
    with pytest.raises(Stopped), signals_of_caller():
        for signum in SIGNALS:
            signal.signal(signum, signal.SIG_DFL)
        raise Stopped(signal.SIGTERM)
    assert came == [signal.SIGTERM]
    assert [signal.getsignal(signum) for signum in SIGNALS] == mine


def test_ctrl_c_is_a_keyboard_interrupt(signal_handlers: None) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), signals_of_caller():
        raise Stopped(signal.SIGINT)


def test_in_another_thread_signals_are_left_alone() -> None:
    def work() -> None:
        with signals_of_caller():
            done.append(True)

    done: list[bool] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
