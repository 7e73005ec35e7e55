"""An environment per peer, made once and kept: `requirements/NAME.txt` has every version."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
REQUIREMENTS = Path(__file__).parent / "requirements"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snapensemble" / "peers"
TOOLS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "__pycache__")


class NotInstalled(Exception):
    """pip could not; its last line says why."""


def environment(name: str, folder: Path) -> Path:
    """The Python of a peer's environment, made below `folder` if it is absent or out of date.

    Raises:
        NotInstalled: with pip's reason.
    """
    requirements = REQUIREMENTS / f"{name}.txt"
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    directory, stamp = folder / name, folder / f"{name}.sha256"
    python = directory / "bin" / "python"
    if python.exists() and stamp.exists() and stamp.read_text() == digest:
        return python
    print(f"installing {name}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    run("-m", "venv", "--clear", str(directory), python=Path(sys.executable))
    run("-m", "pip", "install", "--disable-pip-version-check", "-r", str(requirements), python=python)
    stamp.write_text(digest)
    return python


def run(*arguments: str, python: Path) -> None:
    """Run a Python; NotInstalled if it fails."""
    done = subprocess.run([python, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise NotInstalled(lines[-1] if lines else f"exit code {done.returncode}")


def installed_mib(python: Path) -> float:
    """What the packages take on disk, without pip and what belongs to it."""
    (packages,) = python.parents[1].glob("lib/python*/site-packages")
    files = (
        file
        for part in packages.iterdir()
        if not part.name.startswith(TOOLS)
        for file in ([part] if part.is_file() else part.rglob("*"))
    )
    return sum(file.stat().st_size for file in files if file.is_file()) / 2**20
