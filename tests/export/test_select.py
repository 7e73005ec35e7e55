import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidConfig
from contracts.figures import Metric, rank
from contracts.records import ValFigures
from export.select import Rule, select


def figures(*pairs: tuple[float, float]) -> list[ValFigures]:
    return [ValFigures(nll=nll, accuracy=accuracy) for nll, accuracy in pairs]


VAL_S = figures((0.9, 0.70), (0.5, 0.80), (0.6, 0.85), (0.4, 0.82))


@pytest.mark.parametrize(
    ("rule", "metric", "m", "expected"),
    [
        ("best", "nll", 2, [3, 1]),
        ("best", "accuracy", 2, [2, 3]),
        ("last", "nll", 2, [3, 2]),
        ("last", "accuracy", 3, [2, 3, 1]),
        ("all", "nll", None, [3, 1, 2, 0]),
        ("best", "nll", None, [3, 1, 2]),
        ("best", "nll", 4, [3, 1, 2, 0]),
    ],
)
def test_each_rule_takes_what_it_says_best_first(
    rule: Rule, metric: Metric, m: int | None, expected: list[int]
) -> None:
    assert select(VAL_S, m=m, rule=rule, metric=metric) == expected


def test_of_equals_the_later_one_is_better() -> None:
    assert rank(figures((0.5, 0.8), (0.5, 0.8), (0.5, 0.8)), "nll") == [2, 1, 0]


def test_fewer_than_three_snapshots_all_become_members() -> None:
    assert select(VAL_S[:2], m=None, rule="best") == [1, 0]


@given(st.lists(st.floats(0, 5), min_size=1, max_size=9), st.data())
def test_best_leaves_no_better_one_behind(nlls: list[float], data: st.DataObject) -> None:
    m = data.draw(st.integers(1, len(nlls)))
    chosen = select(figures(*((nll, 0.5) for nll in nlls)), m=m, rule="best")
    left = set(range(len(nlls))) - set(chosen)
    assert len(set(chosen)) == m
    assert max(nlls[i] for i in chosen) <= min((nlls[i] for i in left), default=float("inf"))


@pytest.mark.parametrize(
    ("count", "m", "rule", "message"),
    [
        (3, 4, "best", "--members 4: the run has 3 snapshots; ask for at most 3"),
        (1, 2, "last", "the run has 1 snapshot; ask for at most 1"),
        (3, 0, "best", "at least 1"),
        (3, 2, "all", "leave --members out"),
        (0, None, "best", "no finished cycle yet"),
    ],
)
def test_a_wrong_number_is_refused(count: int, m: int | None, rule: Rule, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        select(VAL_S[:count], m=m, rule=rule)
