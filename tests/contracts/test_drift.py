import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from snapensemble.contracts.drift import (
    BINS,
    ReferenceShares,
    population_stability_index,
    shares_of,
)

counts = st.lists(st.integers(0, 10_000), min_size=4, max_size=4).filter(any)


def test_the_index_is_what_the_formula_says() -> None:
    expected = (0.3 - 0.5) * math.log(0.3 / 0.5) + (0.7 - 0.5) * math.log(0.7 / 0.5)
    assert population_stability_index((0.5, 0.5), [30, 70]) == pytest.approx(expected)


@given(counts, st.integers(1, 50))
def test_the_same_shares_have_no_distance_however_many_there_are(
    served: list[int], factor: int
) -> None:
    shares = [count / sum(served) for count in served]
    index = population_stability_index(shares, [count * factor for count in served])
    assert index == pytest.approx(0, abs=1e-12)


@given(counts, counts)
def test_the_index_is_finite_not_negative_and_the_same_both_ways(
    one: list[int], other: list[int]
) -> None:
    there = population_stability_index([n / sum(one) for n in one], other)
    back = population_stability_index([n / sum(other) for n in other], one)
    assert 0 <= there < math.inf and there == pytest.approx(back)


def test_chance_alone_moves_it_about_as_far_as_the_document_says() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        reference = shares_of(rng.normal(size=250))
        served = reference.counts_of(rng.normal(size=1000))
        found.append(population_stability_index(reference.shares, served))
    assert np.mean(found) == pytest.approx((BINS - 1) * (1 / 250 + 1 / 1000), rel=0.2)


def test_values_that_differ_are_in_ten_equal_bins() -> None:
    values = np.random.default_rng(0).permutation(np.arange(200) / 200)
    reference = shares_of(values)
    assert reference.shares == (0.1,) * BINS
    served = reference.counts_of(np.array([-math.inf, 0, 0.5, 1, math.inf]))
    assert served.tolist() == [2, 0, 0, 0, 0, 1, 0, 0, 0, 2]


def test_values_that_are_often_the_same_are_in_fewer_bins() -> None:
    reference = shares_of(np.array([0.25] * 10 + [1.0] * 90))
    assert (reference.edges, reference.shares) == ((0.925, 1.0), (0.1, 0.0, 0.9))
    assert shares_of(np.zeros(7)).shares == (0.0, 1.0)


def test_the_last_bits_of_a_value_do_not_change_its_bin() -> None:
    reference = shares_of(np.ones(7))
    assert reference.counts_of(np.array([1 - 1e-9, 1.0])).tolist() == [0, 2]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_bins_are_counted_alike_at_export_and_while_serving(values: list[float]) -> None:
    reference = shares_of(np.array(values))
    served = reference.counts_of(np.array(values))
    np.testing.assert_allclose(served / len(values), reference.shares)
    assert population_stability_index(reference.shares, served) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("edges", "shares"),
    [((), (1.0,)), ((0.5, 0.5), (0.2, 0.2, 0.6)), ((0.5,), (0.2, 0.2, 0.6)), ((0.5,), (0.5, 0.6))],
)
def test_shares_that_do_not_fit_are_refused(
    edges: tuple[float, ...], shares: tuple[float, ...]
) -> None:
    with pytest.raises(ValidationError):
        ReferenceShares(edges=edges, shares=shares)
