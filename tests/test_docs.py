"""What the documents say is what the code does."""

import ast
import re
from pathlib import Path

import pytest
from prometheus_client import Metric
from pydantic import BaseModel

from snapensemble.cli import COMMANDS
from snapensemble.contracts.options import expected, extra, flag, meaning, shown_default
from snapensemble.export.config import ExportConfig
from snapensemble.serving.http.problems import (
    HEAD_TOO_LARGE,
    HTTP_CODES,
    MALFORMED,
    NO_MEMORY,
    PROBLEMS,
    Refusal,
)
from snapensemble.serving.http.schemas import PredictOptions
from snapensemble.serving.settings import SECRETS, Settings, variable
from snapensemble.serving.telemetry.metrics import Metrics
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.options.schedule import SCHEDULES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
HTTP_API = (ROOT / "docs" / "http-api.md").read_text()
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def option_row(model: type[BaseModel], name: str) -> str:
    """How a table of options begins its line of one; more may follow."""
    field = model.model_fields[name]
    shown = "none" if name in SECRETS and model is Settings else f"`{flag(name)}`"
    return f"| {shown} | {shown_default(field)} | {expected(model, name)} | {meaning(field)}"


def rows(page: str, heading: str) -> list[str]:
    """The lines of the first table after a heading, without its head."""
    text = (ROOT / "docs" / page).read_text().partition(f"{heading}\n")[2]
    table = re.search(r"^\|.*?\n(?!\|)", text, re.MULTILINE | re.DOTALL)
    assert table is not None
    return table[0].splitlines()[2:]


@pytest.mark.parametrize(
    ("page", "heading", "model"),
    [
        ("training.md", "## All flags", TrainConfig),
        ("export.md", "## All flags", ExportConfig),
        ("settings.md", "# Settings of the server", Settings),
    ],
)
def test_the_table_of_options_is_what_the_model_says(
    page: str, heading: str, model: type[BaseModel]
) -> None:
    found = rows(page, heading)
    for row, name in zip(found, model.model_fields, strict=True):
        variable_of = f"| `{variable(name)}` " if model is Settings else ""
        assert row.startswith(variable_of + option_row(model, name))


def test_the_table_of_schedules_has_the_settings_of_each() -> None:
    found = {
        row.split("|")[1].strip(" `"): row.split("|")[3]
        for row in rows("training.md", "## Schedules")
    }
    assert {name: set(re.findall("`(.*?)`", text)) for name, text in found.items()} == {
        schedule: {
            flag(name)
            for name, field in TrainConfig.model_fields.items()
            if schedule in extra(field).get("belongs_to", ())
        }
        for schedule in SCHEDULES
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme(command: str) -> None:
    assert f"snapensemble {command}" in README


@pytest.mark.parametrize(("status", "code"), [(s, c) for s, c, _ in PROBLEMS.values()])
def test_every_error_code_is_documented_with_its_status(status: int, code: str) -> None:
    assert f"| {status} | `{code}` |" in HTTP_API


@pytest.mark.parametrize(("status", "code"), HTTP_CODES.items())
def test_every_http_error_is_documented(status: int, code: str) -> None:
    assert f"| {status} | `{code}` |" in HTTP_API


@pytest.mark.parametrize("problem", [HEAD_TOO_LARGE, MALFORMED, NO_MEMORY])
def test_the_errors_of_the_protocol_are_documented(problem: Refusal) -> None:
    assert f"| {problem.status} | `{problem.code}` |" in HTTP_API


@pytest.mark.parametrize("name", PredictOptions.model_fields)
def test_every_parameter_is_documented(name: str) -> None:
    assert f"| `{name}` |" in HTTP_API


def shown_name(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


@pytest.mark.parametrize("name", [shown_name(m) for m in Metrics().registry.collect()])
def test_every_metric_is_documented(name: str) -> None:
    assert f"| `{name}` |" in HTTP_API


@pytest.mark.parametrize("target", re.findall(r"make ([a-z][a-z-]+)", README))
def test_every_target_in_the_readme_exists(target: str) -> None:
    assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "decisions").glob("*.md")))
def test_a_decision_record_is_short(page: Path) -> None:
    assert len(page.read_text().splitlines()) <= 40


def listed_functions() -> list[tuple[str, str]]:
    """Every `file` `name` of the numbered lists of docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    steps = re.findall(r"^\d+\. .*(?:\n +.*)*", text, re.MULTILINE)
    return [pair for step in steps for pair in re.findall(r"`([\w/]+\.py)` `([\w.]+)`", step)]


def defined(file: Path) -> set[str]:
    """Functions and classes, and methods as `Class.method`."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{each.name}"
                for each in node.body
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return names


@pytest.mark.parametrize(("file", "name"), listed_functions())
def test_what_the_architecture_page_names_is_there(file: str, name: str) -> None:
    assert name in defined(ROOT / file)


def test_the_architecture_page_lists_three_ways_and_is_short() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert len(re.findall(r"^1\. `", text, re.MULTILINE)) == 3
    assert len(listed_functions()) >= 25
    assert len(text.splitlines()) <= 80
