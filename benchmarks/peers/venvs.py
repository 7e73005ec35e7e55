"""An environment per server, made once and kept: `requirements/NAME.txt` has every version."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
REQUIREMENTS = Path(__file__).parent / "requirements"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snapensemble" / "peers"
OURS = "snapensemble"  # its environment needs the package's own metadata too
TOOLS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "__pycache__")


class NotInstalled(Exception):
    """pip could not install a server; the message is the last line that it printed."""


def environment(name: str, folder: Path) -> Path:
    """The Python of an environment below `folder`, which is made if it is absent or out of date.

    Raises:
        NotInstalled: pip failed; the message is its reason.
    """
    requirements = REQUIREMENTS / f"{name}.txt"
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    directory, stamp = folder.resolve() / name, folder.resolve() / f"{name}.sha256"
    python = directory / "bin" / "python"
    if python.exists() and stamp.exists() and stamp.read_text() == digest:
        return python
    print(f"installing {name}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    run(Path(sys.executable), "-m", "venv", "--clear", str(directory))
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(python, *pip, "--requirement", str(requirements))
    if name == OURS:
        run(python, *pip, "--no-deps", "--editable", str(ROOT))
    stamp.write_text(digest)
    return python


def run(python: Path, *arguments: str) -> None:
    """Run a Python; raise NotInstalled if it fails."""
    done = subprocess.run([python, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise NotInstalled(lines[-1] if lines else f"exit code {done.returncode}")


def installed_mib(python: Path) -> float:
    """What the packages take on disk, without pip and what belongs to it."""
    (packages,) = python.parents[1].glob("lib/python*/site-packages")
    parts = [part for part in packages.iterdir() if not part.name.startswith(TOOLS)]
    files = (file for part in parts for file in [part, *part.rglob("*")] if file.is_file())
    return sum(file.stat().st_size for file in files) / 2**20
