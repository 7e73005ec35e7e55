"""What a shell does with the script: it is asked what it would offer for a line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from snapensemble.cli import COMMANDS, main
from snapensemble.completion import SHELLS, actions, script, whole_parser
from tests.test_surface import FLAGS

# A pseudo-terminal in which zsh completes a line until it has offered all that is expected. Nothing
# more is typed meanwhile: zsh lists nothing while keys wait.
ZSH = """
import os, pty, select, subprocess, sys
script, line, *expected = sys.argv[1:]
primary, secondary = pty.openpty()
shell = subprocess.Popen(["zsh", "-f", "-i"], stdin=secondary, stdout=secondary, stderr=secondary,
                         env={**os.environ, "TERM": "dumb", "COLUMNS": "300", "LINES": "200"})
def type_and_await(text, *marks):
    os.write(primary, text.encode())
    seen = b""
    while not all(mark.encode() in seen for mark in marks):
        if not select.select([primary], [], [], 30)[0]:
            shell.kill()
            sys.exit(f"zsh says nothing more after {seen.decode()}")
        seen += os.read(primary, 65536)
type_and_await(f"autoload -U compinit; compinit -u -D; source {script}; LISTMAX=1000; "
               "compdef _shtab_snapensemble snapensemble; PS1=rea''dy\\n", "ready")
type_and_await(line + "\\t\\t", *expected)
shell.kill()
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        (directory / shell).write_text(script(shell))
    return {shell: directory / shell for shell in SHELLS}


def offered_by_bash(file: Path, *words: str) -> set[str]:
    """What bash offers in place of the last word."""
    function = "_shtab_snapensemble"
    lines = (
        f"source {file}\n"
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))\n'
        f"complete -p snapensemble >/dev/null && {function}\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    found = subprocess.run(
        ["bash", "--norc", "-c", lines, "bash", "snapensemble", *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=file.parent,
    )
    assert found.stderr == ""
    return set(found.stdout.split())


def test_bash_completes_commands(scripts: dict[str, Path]) -> None:
    assert offered_by_bash(scripts["bash"], "") >= set(COMMANDS)
    assert offered_by_bash(scripts["bash"], "pre") == {"predict"}


@pytest.mark.parametrize("command", COMMANDS)
def test_bash_completes_the_flags_of_each_command(scripts: dict[str, Path], command: str) -> None:
    assert offered_by_bash(scripts["bash"], command, "--") == FLAGS[command] | {"--help"}
    for flag in FLAGS[command]:
        assert flag in offered_by_bash(scripts["bash"], command, flag[:-1])


def test_bash_completes_values_and_files(scripts: dict[str, Path]) -> None:
    bash = scripts["bash"]
    assert offered_by_bash(bash, "export", "--select", "gr") == {"greedy"}
    assert offered_by_bash(bash, "evaluate", "--split", "") == {"test", "val", "train"}
    assert offered_by_bash(bash, "completion", "z") == {"zsh"}
    (bash.parent / "runs").mkdir()
    assert offered_by_bash(bash, "export", "ru") == {"runs"}
    assert offered_by_bash(bash, "predict", "--bundle", "ru") == {"runs"}
    assert offered_by_bash(bash, "predict", "ba") == {"bash"}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("snapensemble ", {"train", "predict", "completion"}),
        ("snapensemble predict --", {"--coverage", "--bundle"}),
        ("snapensemble export --select ", {"greedy", "exhaustive"}),
    ],
)
def test_zsh_completes_commands_flags_and_values(
    scripts: dict[str, Path], line: str, expected: set[str]
) -> None:
    found = subprocess.run(
        [sys.executable, "-c", ZSH, str(scripts["zsh"]), line, *expected],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr


def test_the_command_prints_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out.rstrip("\n") == script("bash").rstrip("\n")


def test_a_command_that_is_not_installed_has_no_flags_and_the_others_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "snapensemble.serving.cli", None)
    flags = {each for action in actions(whole_parser()) for each in action.option_strings}
    assert "--max-queue" not in flags and "--coverage" in flags
