"""The shape of the code itself."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("contracts", "trainer", "export", "report", "serving", "snapensemble")
SOURCES = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: f"{f.parent.name}/{f.name}")
def test_a_file_holds_one_idea(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 400


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: f"{f.parent.name}/{f.name}")
def test_a_file_says_what_it_is_for(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text()))


def test_heavy_packages_are_not_needed_to_serve() -> None:
    """The extra `serving` and the base install name no package of the training side."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = " ".join([*project["dependencies"], *project["optional-dependencies"]["serving"]])
    for heavy in ("torch", "scikit", "scipy", "matplotlib", "jinja2", "onnxscript", "tqdm"):
        assert heavy not in names


def test_every_pin_is_exact() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines and all("==" in line and "+" not in line for line in lines)
    assert "torch==2.13.0" in lines
