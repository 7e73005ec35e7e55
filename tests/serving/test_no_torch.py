import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    importlib.import_module(module.name)
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
sys.modules.update(dict.fromkeys({heavy!r}))  # whoever imports one of them fails
import tests.{room} as room
for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
    try:
        importlib.import_module(module.name)
    except BaseException as error:  # a test that is skipped says so by one
        if type(error).__name__ != "Skipped":
            raise
"""


@pytest.mark.parametrize("room", ["contracts", "serving"])
def test_what_tests_serving_needs_nothing_of_training(room: str) -> None:
    """`make test-serving` runs these tests where nothing of the extra `train` is installed."""
    heavy = [name for name in HEAVY if name != "onnx" and not name.startswith("snapensemble")]
    script = TESTS.format(heavy=heavy, room=room)
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


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
