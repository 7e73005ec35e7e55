import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEAVY = (
    "torch",
    "snapensemble.trainer",
    "snapensemble.export",
    "snapensemble.report",
    "sklearn",
    "scipy",
    "matplotlib",
    "jinja2",
    "onnx",
    "onnxscript",
)
SCRIPT = """
import sys, pkgutil, importlib
import snapensemble.serving as serving
for module in pkgutil.walk_packages(serving.__path__, serving.__name__ + "."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:  # of the extra `grpc`, which nothing else needs
        if error.name not in ("google", "google.protobuf", "grpc"):
            raise
        assert module.name.startswith("snapensemble.serving.grpc"), module.name
import snapensemble.cli
print(sorted(set({heavy!r}) & set(sys.modules)))
"""


def test_serving_imports_no_torch_in_a_fresh_interpreter() -> None:
    script = SCRIPT.format(heavy=HEAVY)
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[]"


TESTS = """
import sys, pkgutil, importlib
sys.modules.update(dict.fromkeys({absent!r}))  # whoever imports one of them fails
import tests.{room} as room
for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
    try:
        importlib.import_module(module.name)
    except BaseException as error:  # a test that is skipped says so by one
        if type(error).__name__ != "Skipped":
            raise
"""


def brought_by(*extras: str) -> set[str]:
    """The distributions that the product and some of its extras bring."""
    found: set[str] = set()
    waiting = [("snapensemble", extra) for extra in ("", *extras)]
    for name, extra in waiting:
        for requirement in map(Requirement, metadata.requires(name) or ()):
            marker = requirement.marker
            if marker is None or marker.evaluate({"extra": extra}):
                key = canonicalize_name(requirement.name)
                new = [(key, each) for each in ("", *requirement.extras)]
                waiting += [each for each in new if each not in waiting]
                found.add(key)
    return found


@pytest.mark.parametrize("room", ["contracts", "serving"])
def test_what_tests_serving_needs_nothing_but_the_extras_serving_and_test(room: str) -> None:
    """`make test-serving` runs these tests where nothing else is installed."""
    there = brought_by("serving", "test")
    absent = sorted(
        name
        for name, distributions in metadata.packages_distributions().items()
        if not there.intersection(map(canonicalize_name, distributions))
        and name not in ("snapensemble", "tests", "benchmarks", "_pytest")
    )
    script = TESTS.format(absent=absent, room=room)
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_what_tests_more_where_more_is_installed_is_marked() -> None:
    """`make check` runs the others where nothing more is installed, and only there."""
    rooms = [Path(__file__).parent, Path(__file__).parents[1] / "contracts"]
    for file in [file for room in rooms for file in room.rglob("test_*.py")]:
        looks = {"importorskip", "find_spec", "PACK"} & {*re.findall(r"\w+", file.read_text())}
        if looks and file != Path(__file__):
            assert "pytest.mark.extra" in file.read_text(), f"{file}: {looks}"


def test_onnx_runtime_sends_nothing_and_leaves_no_identifier(
    tmp_path: Path, bundle_dir: Path
) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from snapensemble.serving.inference.engine import load_engine\n"
        "load_engine(Path(sys.argv[1])); print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home)}
    environment = {k: v for k, v in environment.items() if not k.startswith(("ORT_", "XDG_"))}
    command = [sys.executable, "-c", script, str(bundle_dir)]
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert found.stdout.strip() == "1", found.stderr
    assert os.listdir(home) == []


@pytest.mark.parametrize("command", [[], ["serve"], ["predict"], ["train"], ["export"]])
def test_help_is_quick_to_import(command: list[str]) -> None:
    script = (
        "import sys, snapensemble.cli\n"
        f"try: snapensemble.cli.main({[*command, '--help']!r})\n"
        "except SystemExit: pass\n"
        f"print('heavy:', sorted(set({HEAVY[:1]!r}) & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "usage: snapensemble" in found.stdout, found.stderr
    assert found.stdout.strip().endswith("heavy: []")
