"""docs/clients.md lists what tests/conformance tries, no more and no less."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "clients.md").read_text()
PINS = (ROOT / "tests" / "conformance" / "requirements.txt").read_text().splitlines()


def tried() -> set[str]:
    """The tests in tests/conformance."""
    files = sorted((ROOT / "tests" / "conformance").glob("test_*.py"))
    nodes = [node for file in files for node in ast.parse(file.read_text()).body]
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    names = [node.name for node in nodes if isinstance(node, functions)]
    return {name for name in names if name.startswith("test_")}


def test_every_row_works_and_names_its_test() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| `(test_\w+)` \| ([^|]*)\|$", PAGE, re.MULTILINE)
    assert len(rows) == len(re.findall(r"^\| .*`test_", PAGE, re.MULTILINE))
    assert {works for _, works, _, _ in rows} == {"yes"}
    assert sorted(test for _, _, test, _ in rows) == sorted(tried())


def test_versions_are_those_that_are_installed() -> None:
    named = re.findall(r"\| ([\w-]+) (\d+\.\d+\.\d+)", PAGE)
    assert len(named) >= 4
    for package, version in named:
        assert any(re.match(rf"{package}(\[.*\])?=={version}$", pin) for pin in PINS), package


def test_every_platform_has_a_section_with_what_to_type() -> None:
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    for section in sections[1:]:  # after what all have in common
        assert section.count("```") == 2, section.splitlines()[0]
