"""The notebook runs from its first cell to its last, and holds no output."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "docs" / "python.ipynb"
# Cell by cell in one namespace, as a notebook does; what the last cells have made is printed.
RUN = """
import json, sys
namespace = {"__name__": "__main__"}
for number, source in enumerate(json.load(sys.stdin)):
    exec(compile(source, f"code cell {number}", "exec"), namespace)
print(json.dumps({name: float(namespace[name]) for name in ("right", "difference")}))
"""


@pytest.fixture(scope="module")
def notebook() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


def test_the_notebook_is_short_and_stores_no_output(notebook: dict[str, Any]) -> None:
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len(notebook["cells"]) <= 12
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.slow
def test_the_notebook_does_what_it_shows(notebook: dict[str, Any], tmp_path: Path) -> None:
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN],
        input=json.dumps(cells),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    )
    assert found.returncode == 0, found.stderr
    *lines, last = found.stdout.splitlines()
    assert json.loads(last)["right"] > 80
    assert json.loads(last)["difference"] < 1e-6
    assert any("members 7: the run has 3 snapshots" in line for line in lines)
