"""What `pip install snapensemble` puts beside other people's packages."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder

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


def test_a_wheel_says_that_it_is_typed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert "snapensemble/py.typed" in archive.namelist()


def test_an_sdist_holds_all_that_a_wheel_does(wheel: Path, tmp_path: Path) -> None:
    (built,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(built) as archive:
        kept = {
            name.partition("/")[2]
            for name in archive.getnames()
            if archive.getmember(name).isfile()
        }
    with zipfile.ZipFile(wheel) as archive:
        wanted = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert wanted <= kept and {"README.md", "LICENSE", "pyproject.toml", "PKG-INFO"} <= kept


def test_the_page_on_an_index_has_no_link_that_leads_nowhere_there(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith("/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    page = metadata.get_payload()
    assert isinstance(page, str) and metadata["description-content-type"] == "text/markdown"
    for target in re.findall(r"\]\(([^)]*)\)", page):
        assert target.startswith("https://"), target
    readme = (ROOT / "README.md").read_text()
    # Nothing but pictures and the targets of links is missing.
    texts = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", re.sub(r"!\[.*?\]\(.*?\)\n?", "", readme))
    assert re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", page).split() == texts.split()


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
