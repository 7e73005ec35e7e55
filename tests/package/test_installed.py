"""What `make package` has built, installed by people: in fresh environments, from an index.

Each Python of PYTHONS is tried, or those that are called python3.11 and so on.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.factories import encoded, make_cascade_bundle, picture

ROOT = Path(__file__).parents[2]
PYTHONS = os.environ.get("PYTHONS", "python3.11 python3.12 python3.13").split()


def run(*command: object, cwd: Path | None = None) -> str:
    """The output of a command that must succeed."""
    found = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=cwd, env=clean_environment()
    )
    assert found.returncode == 0, f"{command}\n{found.stdout}\n{found.stderr}"
    return found.stdout


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def is_there(python: str) -> bool:
    try:
        return subprocess.run([python, "--version"], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.fixture(params=PYTHONS)
def python(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if not is_there(name):
        pytest.skip(f"there is no {name} here; name others by PYTHONS")
    return name


def installed(python: str, where: Path, file: Path, extras: Sequence[str]) -> Path:
    """The programs of a fresh environment with the file and extras."""
    run(python, "-m", "venv", where)
    wanted = f"{file}[{','.join(extras)}]" if extras else str(file)
    run(
        where / "bin" / "pip", "--disable-pip-version-check", "install", "--quiet",
        "--constraint", ROOT / "constraints.txt", wanted,
    )  # fmt: skip
    return where / "bin"


def built(kind: str) -> Path:
    (file,) = (ROOT / "dist").glob(f"snapensemble-*{kind}")
    return file


SERVE_AND_ASK = """
import json, sys, threading
import snapensemble
from snapensemble.server_process import server_process

bundle, file = sys.argv[1:]
with snapensemble.load(bundle) as ensemble:
    here = ensemble.predict(file, coverage=0.9)
with server_process(bundle, "--port", "0") as (_, url), snapensemble.Client(url) as client:
    there = client.predict([file], coverage=0.9)
assert there == [here], (here, there)
print(json.dumps([name for name in ("torch", "sklearn", "onnx") if name in sys.modules]))
"""


def test_a_wheel_serves_and_answers(python: str, tmp_path: Path) -> None:
    programs = installed(python, tmp_path / "venv", built(".whl"), ["serving", "client"])
    bundle = make_cascade_bundle(tmp_path / "bundle")
    (tmp_path / "a.png").write_bytes(encoded(picture(0)))
    assert "usage: snapensemble serve" in run(programs / "snapensemble", "serve", "--help")
    said = run(programs / "python", "-c", SERVE_AND_ASK, bundle, tmp_path / "a.png", cwd=tmp_path)
    assert json.loads(said) == []
    shown = run(
        programs / "snapensemble", "predict", tmp_path / "a.png", "--bundle", bundle, "--json",
        cwd=tmp_path,
    )  # fmt: skip
    assert json.loads(shown)["model"]["name"] == "insects"


def test_a_client_alone_is_small(python: str, tmp_path: Path) -> None:
    programs = installed(python, tmp_path / "venv", built(".whl"), ["client"])
    names = json.loads(run(programs / "pip", "list", "--format", "json"))
    found = {each["name"].lower() for each in names}
    assert not found & {"torch", "onnxruntime", "fastapi", "scipy", "tqdm"}
    script = (
        "import snapensemble\n"
        "try:\n"
        "    snapensemble.Client('http://127.0.0.1:1', attempts=1).predict(b'x')\n"
        "except snapensemble.Unreachable as error:\n"
        "    print(error)\n"
    )
    assert "is the server running?" in run(programs / "python", "-c", script, cwd=tmp_path)
    completed = run(programs / "snapensemble", "completion", "bash")
    assert "predict" in completed and "--url" in completed
    found_files = subprocess.run(
        [programs / "snapensemble", "predict", __file__, "--url", "http://127.0.0.1:1"],
        capture_output=True, text=True, env=clean_environment(),
    )  # fmt: skip
    assert found_files.returncode == 2 and "no answer from" in found_files.stderr


def test_an_sdist_installs_the_same_files(python: str, tmp_path: Path) -> None:
    kinds = (".whl", ".tar.gz")
    listed = []
    for kind in kinds:
        programs = installed(python, tmp_path / kind, built(kind), [])
        script = "import snapensemble, pathlib; print(pathlib.Path(snapensemble.__file__).parent)"
        package = Path(run(programs / "python", "-c", script, cwd=tmp_path).strip())
        listed.append(
            {str(f.relative_to(package)) for f in package.rglob("*") if f.suffix != ".pyc"}
        )
    assert listed[0] == listed[1] and "py.typed" in listed[0]
