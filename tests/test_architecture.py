"""The shape of the code itself."""

import ast
import importlib.util
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("contracts", "trainer", "export", "report", "serving", "snapensemble")
SOURCES = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FILE_LINES, FOLDER_MODULES, FRAGMENT_LINES = 400, 18, 40


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: f"{f.parent.name}/{f.name}")
def test_a_file_holds_one_idea(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= FILE_LINES


@pytest.mark.parametrize("folder", sorted({file.parent for file in SOURCES}), ids=str)
def test_a_folder_can_be_seen_at_a_glance(folder: Path) -> None:
    assert len([file for file in folder.glob("*.py") if file.stem != "__init__"]) <= FOLDER_MODULES


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


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    """Who imports whom, also inside functions."""
    return grimp.build_graph("snapensemble", cache_dir=None)


def test_no_module_imports_itself_in_the_end(imports: grimp.ImportGraph) -> None:
    imported = {
        module: imports.find_modules_directly_imported_by(module) for module in imports.modules
    }
    try:
        TopologicalSorter(imported).prepare()
    except CycleError as error:
        pytest.fail(" is imported by ".join(error.args[1]))


def test_a_small_module_has_several_users(imports: grimp.ImportGraph) -> None:
    """What only one other module needs is read there, unless there is much of it."""
    fragments = {}
    for module in imports.modules:
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None
        lines = len(Path(spec.origin).read_text().splitlines())
        users = imports.find_modules_that_directly_import(module)
        if lines < FRAGMENT_LINES and len(users) == 1 and not spec.submodule_search_locations:
            fragments[module] = f"{lines} lines, for {users.pop()}"
    assert not fragments


@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda f: f"{f.parent.name}/{f.name}")
def test_a_benchmark_uses_what_everybody_may_use(file: Path) -> None:
    """What is private may change at any time, and tests are no part of the product."""
    found = list(not_for_benchmarks(ast.parse(file.read_text())))
    assert found == []


def not_for_benchmarks(tree: ast.AST) -> Iterator[str]:
    """Imports of tests and of private names, and private attributes of other objects."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            names = [] if is_own else [node.attr]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        else:
            continue
        is_import = not isinstance(node, ast.Attribute)
        for name in names:
            is_private = name.startswith("_") and not name.startswith("__")
            if is_private or (is_import and name == "tests"):
                yield f"line {node.lineno}: {name}"


@pytest.mark.parametrize(
    "file", [*SOURCES, *BENCHMARKS, *TESTS], ids=lambda f: f"{f.parent.name}/{f.name}"
)
def test_no_block_waits_at_its_end_for_a_process_that_nobody_ends(file: Path) -> None:
    """`with Popen(...)` does, when a check inside has failed; `ended(Popen(...))` is for that."""
    waiting = [
        f"line {item.context_expr.lineno}"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.With)
        for item in node.items
        if isinstance(item.context_expr, ast.Call)
        and ast.unparse(item.context_expr.func) in ("Popen", "subprocess.Popen")
    ]
    assert waiting == []
