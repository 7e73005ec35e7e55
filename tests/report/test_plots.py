import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from snapensemble.report.plots import percent

shares = st.floats(0, 1)


@pytest.mark.parametrize("values", [(0.983, 0.9855), (0.0, 1.0), (0.5, 0.5), (0.9990, 1.0)])
def test_ticks_in_percent_are_few_and_distinct(values: tuple[float, float]) -> None:
    check(values)


@given(st.tuples(shares, shares))
@settings(max_examples=40, deadline=None)
def test_ticks_are_distinct_for_any_range(values: tuple[float, float]) -> None:
    check(values)


def check(values: tuple[float, float]) -> None:
    axes = Figure().subplots()
    percent(axes, values)
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert 2 <= len(labels) == len(set(labels)) <= 10
    low, high = axes.get_ylim()
    assert low <= min(values) and max(values) <= high
