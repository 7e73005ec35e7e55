"""Which classes are answered how well, and which are taken for which."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.report.bundle.confusion import (
    MATRIX_CLASSES,
    MOST_PAIRS,
    SHADES,
    SHOWN_CLASSES,
    class_by_class,
    class_figures,
    class_rows,
    shown_matrix,
)
from snapensemble.report.bundle.measure import ReportInputs, measure_bundle
from snapensemble.report.bundle.records import AnswerFigures
from tests.report.bundle.bundles import answers, make_manifest

PLAIN = answers(40, classes=3)


def measured(top_N: list[int], labels_N: list[int], classes: list[str]) -> AnswerFigures:
    """The figures of a report whose answers are these."""
    figures = measure_bundle(make_manifest(PLAIN), ReportInputs(calibration=PLAIN)).answers
    assert figures is not None
    found = class_by_class(np.eye(len(classes))[top_N], np.array(labels_N), classes)
    return figures.model_copy(update=found)


def test_classes_come_with_what_they_are_taken_for_the_worst_first() -> None:
    top_N = np.array([0, 0, 1, 2, 1, 1, 2, 2, 0])
    labels_N = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    found = class_figures(top_N, labels_N, ("ant", "bee", "cow", "dog"))
    assert [c.name for c in found] == ["ant", "cow", "bee", "dog"]
    ant, cow, bee, dog = found
    assert (ant.images, ant.right, ant.mistaken_for, ant.mistaken) == (4, 2, "bee", 1)
    assert (cow.right, cow.mistaken_for) == (2, "ant")
    assert bee.right == bee.images == 2 and bee.mistaken_for is None
    assert (dog.images, dog.right, dog.answered, dog.mistaken_for) == (0, 0, 0, None)
    assert (ant.answered, bee.answered, cow.answered) == (3, 3, 3)


def test_a_class_of_one_wrong_image_does_not_come_before_one_that_is_often_wrong() -> None:
    labels_N = np.array([0] * 40 + [1])
    top_N = np.array([0] * 20 + [1] * 20 + [0])
    assert [c.name for c in class_figures(top_N, labels_N, ("often", "once"))] == ["often", "once"]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_matrix_pairs_and_classes_count_the_same_images(pairs: list[tuple[int, int]]) -> None:
    labels_N, top_N = (np.array(column) for column in zip(*pairs, strict=True))
    names = list("abcd")
    found = class_by_class(np.eye(4)[top_N], labels_N, names)
    matrix_KK = np.array(found["confusion"])
    assert matrix_KK.sum() == len(pairs)
    for one in found["classes"]:
        k = names.index(one.name)
        assert one.images == matrix_KK[k].sum() and one.answered == matrix_KK[:, k].sum()
        assert one.right == matrix_KK[k, k]
    off_KK = matrix_KK - np.diag(np.diag(matrix_KK))
    assert sum(pair.images for pair in found["confused"]) == off_KK.sum()
    for pair in found["confused"]:
        right, answer = names.index(pair.right), names.index(pair.answer)
        assert (pair.images, pair.other_way) == (off_KK[right, answer], off_KK[answer, right])
    counts = [pair.images for pair in found["confused"]]
    assert counts == sorted(counts, reverse=True) and 0 not in counts


def test_precision_recall_and_f1_are_those_of_the_definition_with_intervals() -> None:
    labels_N = [0] * 10 + [1] * 4
    top_N = [0] * 8 + [1] * 2 + [1] * 3 + [0]
    rows = {row.found.name: row for row in class_rows(measured(top_N, labels_N, ["a", "b", "c"]))}
    first, second, absent = rows["a"], rows["b"], rows["c"]
    assert first.recall is not None and first.precision is not None
    assert first.recall.value == 8 / 10 and first.precision.value == 8 / 9
    assert first.f1 == pytest.approx(2 / (10 / 8 + 9 / 8))
    # Clopper & Pearson's interval of 8 in 10.
    assert (first.recall.low, first.recall.high) == pytest.approx((0.4439, 0.9748), abs=1e-4)
    assert not first.few and second.few
    assert (absent.recall, absent.precision, absent.f1) == (None, None, None)


def test_a_class_that_is_never_the_answer_has_no_precision() -> None:
    row = next(r for r in class_rows(measured([0, 0], [0, 1], ["a", "b"])) if r.found.name == "b")
    assert row.precision is None and row.f1 == 0
    assert row.recall is not None and row.recall.value == 0


def test_few_classes_are_shown_whole_and_shaded_by_their_share_of_the_row() -> None:
    names = ["a", "b", "c"]
    shown = shown_matrix(measured([0, 0, 0, 1, 1], [0, 0, 0, 0, 1], names), names)
    assert shown is not None and shown.whole and shown.names == names
    first, second, third = shown.rows
    assert [cell.images for cell in first.cells] == [3, 1, 0]
    assert [cell.shade for cell in first.cells] == [7, 3, 0]  # of 9: 3/4 and 1/4, rounded up
    assert [cell.shade for cell in second.cells] == [0, SHADES, 0]
    assert [cell.right for cell in third.cells] == [False, False, True]
    assert all(row.elsewhere == 0 for row in shown.rows)


def test_of_many_classes_those_that_are_confused_most_are_shown_beside_each_other() -> None:
    K = SHOWN_CLASSES + 20
    names = [f"class {k}" for k in range(K)]
    labels_N = [*range(K), 40, 40, 40, 7, 7]
    top_N = [*range(K), 3, 3, 3, 12, 12]
    shown = shown_matrix(measured(top_N, labels_N, names), names)
    assert shown is not None and not shown.whole
    assert shown.names == ["class 40", "class 3", "class 7", "class 12"]
    # As many confused classes as do not all fit: a row says how many answers have no column.
    top_N = [(k + 1) % K for k in range(K)]
    shown = shown_matrix(measured(top_N, list(range(K)), names), names)
    assert shown is not None and len(shown.names) == SHOWN_CLASSES
    inside = sum(cell.images for row in shown.rows for cell in row.cells)
    assert inside + sum(row.elsewhere for row in shown.rows) == SHOWN_CLASSES
    assert sum(row.elsewhere for row in shown.rows) > 0


def test_many_classes_without_a_mistake_show_no_matrix() -> None:
    K = SHOWN_CLASSES + 1
    names = [f"class {k}" for k in range(K)]
    assert shown_matrix(measured(list(range(K)), list(range(K)), names), names) is None


def test_what_is_kept_stays_small_with_many_classes() -> None:
    K = MATRIX_CLASSES + 1
    names = [f"class {k}" for k in range(K)]
    found = class_by_class(np.eye(K)[[(k + 1) % K for k in range(K)]], np.arange(K), names)
    assert found["confusion"] == () and len(found["confused"]) == MOST_PAIRS
    fewer = class_by_class(np.eye(K - 1), np.arange(K - 1), names[:-1])
    assert len(fewer["confusion"]) == MATRIX_CLASSES
