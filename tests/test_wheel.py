"""What `pip install snapensemble` puts beside other people's packages."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from snapensemble.cli import COMMANDS

ROOT = Path(__file__).parents[1]
FOLDERS = ("contracts", "trainer", "export", "report", "serving")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", directory, ROOT], check=True
    )
    (file,) = directory.glob("*.whl")
    return file


def test_a_wheel_installs_one_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"snapensemble"}


def test_a_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", *FOLDERS], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    if not tracked:
        pytest.skip("this is no git checkout")
    with zipfile.ZipFile(wheel) as archive:
        missing = {f"snapensemble/{name}" for name in tracked} - set(archive.namelist())
    assert not missing


def test_an_installed_wheel_and_packages_of_the_same_names_leave_each_other_alone(
    wheel: Path, tmp_path: Path
) -> None:
    packages = tmp_path / "site-packages"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    for name in FOLDERS:
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").write_text("OWNER = 'another'\n")
    subprocess.run([*pip, "--no-deps", "--no-index", "--target", packages, wheel], check=True)
    script = (
        "import snapensemble.cli\n"
        "print(snapensemble.cli.__file__)\n"
        f"import {', '.join(FOLDERS)}\n"
        f"print({', '.join(f'{name}.OWNER' for name in FOLDERS)})\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(packages), "PYTHONSAFEPATH": "1"}
    found = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    where, owners = found.stdout.splitlines()
    assert Path(where).is_relative_to(packages)
    assert set(owners.split()) == {"another"}
    for command in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-m", "snapensemble.cli", command, "--help"],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and f"snapensemble {command}" in done.stdout, done.stderr
