import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "torch",
    "trainer",
    "export",
    "report",
    "sklearn",
    "scipy",
    "matplotlib",
    "jinja2",
    "onnx",
    "onnxscript",
)
SCRIPT = """
import sys, pkgutil, importlib
import serving
for module in pkgutil.iter_modules(serving.__path__):
    importlib.import_module("serving." + module.name)
import snapensemble.cli
print(sorted(set({heavy!r}) & set(sys.modules)))
"""


def test_serving_imports_no_torch_in_a_fresh_interpreter() -> None:
    script = SCRIPT.format(heavy=HEAVY)
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[]"


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
