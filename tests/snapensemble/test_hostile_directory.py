"""Whatever lies in the current directory, none of it is imported."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from benchmarks.children import ended
from snapensemble.cli import COMMANDS
from snapensemble.server_process import server_process
from tests.factories import encoded, picture

SCRIPTS = Path(sys.executable).parent
HEALTH_CHECK = Path(__file__).parents[2] / "docker" / "healthcheck.py"
OURS = ("contracts", "trainer", "export", "report", "serving")
OTHERS = (
    "argparse", "asyncio", "json", "logging", "pathlib", "sitecustomize", "usercustomize",
    "numpy", "PIL", "pydantic", "prometheus_client", "uvicorn", "fastapi", "onnxruntime", "torch",
)  # fmt: skip
TRAP = "raise SystemExit('a file of the current directory was imported: ' + __file__)\n"


@pytest.fixture(params=["files", pytest.param("packages", marks=pytest.mark.slow)])
def hostile(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The current directory: it has a module of every name that anything imports."""
    directory = tmp_path / "hostile"
    directory.mkdir()
    for name in ("snapensemble", *OURS, *OTHERS):
        if request.param == "files":
            (directory / f"{name}.py").write_text(TRAP)
        else:
            (directory / name).mkdir()
            for module in ("__init__", "__main__", "cli", "worker"):
                (directory / name / f"{module}.py").write_text(TRAP)
    monkeypatch.chdir(directory)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return directory


def run(*command: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_and_its_workers(
    hostile: Path, bundle_dir: Path, workers: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with server_process(bundle_dir, "--port", "0", "--workers", workers) as (process, url):
        reply = httpx.post(f"{url}/predict", content=encoded(picture(1)))
        assert reply.status_code == 200
        process.terminate()
        assert process.wait(30) == 0
    assert "was imported" not in capfd.readouterr().err


def test_every_command_of_the_console_script(hostile: Path) -> None:
    for command in COMMANDS:
        done = run(SCRIPTS / "snapensemble", command, "--help")
        assert done.returncode == 0 and f"snapensemble {command}" in done.stdout, done.stderr


def test_the_console_script_serves_with_workers(hostile: Path, bundle_dir: Path) -> None:
    with ended(
        subprocess.Popen(
            [SCRIPTS / "snapensemble", "serve", bundle_dir, "--port", "0", "--workers", "2"],
            stdout=subprocess.PIPE,
            text=True,
        )
    ) as process:
        assert process.stdout is not None
        assert "workers: 2" in process.stdout.readline()
        process.terminate()
        assert process.wait(30) == 0


def test_processes_of_torchrun(hostile: Path) -> None:
    flags = ("--standalone", "--nproc-per-node", "1", "-m", "snapensemble.trainer", "--help")
    done = run(SCRIPTS / "torchrun", *flags, PYTHONSAFEPATH="1")
    assert done.returncode == 0 and "--resume RUN_DIR" in done.stdout, done.stderr


def test_processes_of_torchrun_where_no_other_snapensemble_is_found_first(hostile: Path) -> None:
    """Without the variable Python looks for `snapensemble` here, and for nothing after that."""
    shutil.rmtree(hostile / "snapensemble", ignore_errors=True)
    (hostile / "snapensemble.py").unlink(missing_ok=True)
    done = run(sys.executable, "-m", "snapensemble.trainer", "--help")
    assert done.returncode == 0 and "--resume RUN_DIR" in done.stdout, done.stderr


def test_the_health_check_of_the_image(hostile: Path) -> None:
    done = run(sys.executable, HEALTH_CHECK, SNAPENSEMBLE_PORT="9")
    assert "was imported" not in done.stderr and done.returncode == 1


def test_packages_of_other_people_beside_a_notebook_are_neither_hidden_nor_taken_for_ours(
    hostile: Path,
) -> None:
    """A kernel looks in the notebook's directory first, as `-c` does: there is a `trainer.py`."""
    for other in (*OTHERS, "snapensemble"):
        shutil.rmtree(hostile / other, ignore_errors=True)
        (hostile / f"{other}.py").unlink(missing_ok=True)
    imports = "; ".join(f"import snapensemble.{name}.cli" for name in OURS if name != "contracts")
    done = run(
        sys.executable, "-c", f"import snapensemble.contracts.bundle; {imports}; print('found')"
    )
    assert done.stdout == "found\n", done.stderr
