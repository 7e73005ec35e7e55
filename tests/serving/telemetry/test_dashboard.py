"""The Grafana dashboard asks for what the server counts, and for nothing else."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics import MetricWrapperBase

from snapensemble.serving.telemetry.metrics import Metrics

FILE = Path(__file__).parents[3] / "docker" / "grafana" / "snapensemble.json"
BOARD = json.loads(FILE.read_text())
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
SERIES = {
    family.name + suffix: family.name
    for family in Metrics().registry.collect()
    for suffix in SUFFIXES[family.type]
}
LABELS = {
    metric._name: {*metric._labelnames, "le", "job"}
    for metric in Metrics().registry._collector_to_names
    if isinstance(metric, MetricWrapperBase)
}


def expressions(part: Any) -> Iterator[str]:
    """Every query in the dashboard, those of its variables included."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key in ("expr", "query") and isinstance(value, str):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(part, list):
        for value in part:
            yield from expressions(value)


EXPRESSIONS = [e for e in expressions(BOARD) if e != "prometheus"]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_name_in_an_expression_is_counted_by_the_server(expression: str) -> None:
    names = re.findall(r"snapensemble_\w+", expression)
    assert names and set(names) <= set(SERIES)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_label_in_an_expression_is_one_of_its_metric(expression: str) -> None:
    (metric,) = {SERIES[name] for name in re.findall(r"snapensemble_\w+", expression)}
    grouped = [
        name for group in re.findall(r"by \(([^)]*)\)", expression) for name in group.split(", ")
    ]
    selected = re.findall(r"(\w+)=~?\"", expression)
    assert {*grouped, *selected} <= LABELS[metric]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_brackets_are_closed(expression: str) -> None:
    left = re.sub(r'"[^"]*"', "", expression)
    while (
        shorter := re.sub(r"\([^()\[\]{}]*\)|\[[^()\[\]{}]*\]|\{[^()\[\]{}]*\}", "", left)
    ) != left:
        left = shorter
    assert not set("()[]{}") & set(left)


def test_every_metric_is_shown() -> None:
    shown = {SERIES[n] for e in EXPRESSIONS for n in re.findall(r"snapensemble_\w+", e)}
    assert shown == set(SERIES.values())


def test_panels_have_their_own_numbers_and_places() -> None:
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    cells = [
        (x, y)
        for panel in BOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) == 23
