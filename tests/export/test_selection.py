from collections.abc import Callable
from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.bundle import Rule
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.metrics import (
    Floats,
    Labels,
    Metric,
    accuracy,
    macro_accuracy,
    mean_probabilities,
    nll,
    softmax,
)
from snapensemble.contracts.run import Weights
from snapensemble.export.selection import (
    Judge,
    Members,
    best_path,
    exhaustive_path,
    greedy_path,
    last_path,
    select,
)

K = 4


def snapshots(seed: int, count: int = 5, images: int = 60) -> tuple[Floats, np.ndarray]:
    """probs_SNK and labels_N of snapshots of different quality that err together and alone."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, K, images)
    shared_NK = rng.normal(size=(images, K))
    quality_S = rng.uniform(0.5, 2.5, count)
    logits_SNK = np.stack(
        [q * np.eye(K)[labels_N] + shared_NK + rng.normal(size=(images, K)) for q in quality_S]
    )
    return softmax(logits_SNK), labels_N


def subsets(count: int) -> list[tuple[int, ...]]:
    sizes = (combinations(range(count), m) for m in range(1, count + 1))
    return list(chain.from_iterable(sizes))


seeds = st.integers(0, 10_000)


# Higher is better.
FIGURES: dict[Metric, Callable[[Floats, Labels], float]] = {
    "nll": lambda probs_NK, labels_N: -nll(probs_NK, labels_N),
    "accuracy": accuracy,
    "macro": macro_accuracy,
}


@given(seeds, st.integers(1, 5), st.sampled_from(list(FIGURES)))
def test_best_takes_the_members_with_the_best_figures_alone(
    seed: int, m: int, metric: Metric
) -> None:
    probs_SNK, labels_N = snapshots(seed)
    chosen = select(probs_SNK, labels_N, members=m, rule="best", metric=metric)
    figures_S = [FIGURES[metric](probs_NK, labels_N) for probs_NK in probs_SNK]
    left = set(range(5)) - set(chosen.indices)
    inside = [figures_S[i] for i in chosen.indices]
    outside = [figures_S[i] for i in left]
    assert len(chosen.indices) == m
    assert chosen.weights == pytest.approx([1 / m] * m)
    if outside:
        assert min(inside) >= max(outside) - 1e-9


def test_last_takes_the_latest_and_all_takes_every_one() -> None:
    probs_SNK, labels_N = snapshots(1)
    assert set(select(probs_SNK, labels_N, members=2, rule="last").indices) == {3, 4}
    assert set(select(probs_SNK, labels_N, rule="all").indices) == {0, 1, 2, 3, 4}


@given(seeds, st.sampled_from(list(FIGURES)))
def test_exhaustive_finds_what_trying_every_subset_finds(seed: int, metric: Metric) -> None:
    probs_SNK, labels_N = snapshots(seed)

    def badness(subset: tuple[int, ...]) -> float:
        return -FIGURES[metric](mean_probabilities(probs_SNK[list(subset)]), labels_N)

    chosen = select(probs_SNK, labels_N, rule="exhaustive", metric=metric)
    assert badness(chosen.indices) == pytest.approx(min(map(badness, subsets(5))))
    of_two = select(probs_SNK, labels_N, members=2, rule="exhaustive", metric=metric)
    pairs = list(combinations(range(5), 2))
    assert badness(of_two.indices) == pytest.approx(min(map(badness, pairs)))
    assert len(of_two.indices) == 2


@given(seeds)
def test_each_greedy_step_adds_what_helps_most_and_the_best_prefix_is_kept(seed: int) -> None:
    probs_SNK, labels_N = snapshots(seed, count=4)

    def badness(bag: tuple[int, ...]) -> float:
        return nll(probs_SNK[list(bag)].mean(axis=0), labels_N)

    path = greedy_path(Judge(probs_SNK, labels_N, "nll"), most=4)
    for before, after in zip([(), *path], path, strict=False):
        assert after[:-1] == before
        assert badness(after) == pytest.approx(min(badness((*before, i)) for i in range(4)))
    chosen = select(probs_SNK, labels_N, rule="greedy")
    weighted = mean_probabilities(probs_SNK[list(chosen.indices)], chosen.weights)
    assert nll(weighted, labels_N) == pytest.approx(min(map(badness, path)))


def test_greedy_repeats_a_snapshot_that_deserves_it_and_counts_become_weights() -> None:
    right_N = np.array([0.9, 0.9, 0.9, 0.05])
    other_N = np.array([0.3, 0.3, 0.3, 0.9])
    probs_SNK = np.stack([np.stack([p, 1 - p], axis=1) for p in (right_N, other_N)])
    chosen = select(probs_SNK, np.zeros(4, dtype=int), rule="greedy")
    assert chosen.indices == (0, 1)
    assert 0.5 < chosen.weights[0] < 1
    assert sum(chosen.weights) == pytest.approx(1)


@given(seeds, st.integers(1, 3))
def test_greedy_takes_no_more_different_snapshots_than_asked_for(seed: int, m: int) -> None:
    probs_SNK, labels_N = snapshots(seed)
    assert len(select(probs_SNK, labels_N, members=m, rule="greedy").indices) <= m


@given(seeds, st.sampled_from(["best", "last", "greedy", "exhaustive"]))
def test_auto_is_the_fewest_members_within_one_standard_error_of_the_lowest(
    seed: int, rule: Rule
) -> None:
    probs_SNK, labels_N = snapshots(seed)
    judge = Judge(probs_SNK, labels_N, "nll")
    path = {
        "best": best_path(judge),
        "last": last_path(judge),
        "greedy": greedy_path(judge, 5),
        "exhaustive": exhaustive_path(judge),
    }[rule]

    def losses_N(bag: tuple[int, ...]) -> Floats:
        right_N = probs_SNK[list(bag)].mean(axis=0)[np.arange(len(labels_N)), labels_N]
        return np.asarray(-np.log(right_N))

    lowest = min(path, key=lambda bag: losses_N(bag).mean())

    def within(bag: tuple[int, ...]) -> bool:
        excess_N = losses_N(bag) - losses_N(lowest)
        return bool(excess_N.mean() <= excess_N.std(ddof=1) / np.sqrt(len(excess_N)))

    fewest = min(len(set(bag)) for bag in path if within(bag))
    chosen = select(probs_SNK, labels_N, members="auto", rule=rule)
    assert len(chosen.indices) == fewest


@given(seeds, st.sampled_from(["best", "all", "greedy"]))
def test_each_member_is_the_one_that_helps_those_before_it_most(seed: int, rule: Rule) -> None:
    probs_SNK, labels_N = snapshots(seed)
    chosen = select(probs_SNK, labels_N, rule=rule)
    weight_of = dict(zip(chosen.indices, chosen.weights, strict=True))

    def badness(indices: tuple[int, ...]) -> float:
        weights = np.array([weight_of[i] for i in indices])
        return nll(mean_probabilities(probs_SNK[list(indices)], weights / weights.sum()), labels_N)

    for depth in range(len(chosen.indices)):
        asked, left = chosen.indices[:depth], chosen.indices[depth:]
        lowest = min(badness((*asked, i)) for i in left)
        assert badness((*asked, left[0])) == pytest.approx(lowest)


def test_of_equals_the_later_one_is_better() -> None:
    probs_SNK, labels_N = snapshots(3, count=1)
    same_SNK = np.repeat(probs_SNK, 3, axis=0)
    assert select(same_SNK, labels_N, members=2, rule="best").indices == (2, 1)


def test_fewer_than_three_snapshots_all_become_members() -> None:
    probs_SNK, labels_N = snapshots(2, count=2)
    assert set(select(probs_SNK, labels_N, rule="best").indices) == {0, 1}


@pytest.mark.parametrize("rule", ["auto", "best", "last", "all", "greedy", "exhaustive"])
@pytest.mark.parametrize("members", [None, "auto"])
def test_a_single_snapshot_is_the_only_member(rule: Rule, members: Members) -> None:
    probs_SNK, labels_N = snapshots(4, count=1, images=2)
    chosen = select(probs_SNK, labels_N, members=members, rule=rule)
    assert chosen.indices == (0,) and chosen.weights == (1.0,)


@pytest.mark.parametrize(
    ("count", "members", "rule", "message"),
    [
        (3, 4, "best", "--members 4: the run has 3 snapshots; ask for at most 3"),
        (1, 2, "last", "the run has 1 snapshot; ask for at most 1"),
        (3, 0, "best", "at least 1, or auto, got 0"),
        (3, 2, "all", "leave --members out"),
        (0, None, "best", "no finished cycle yet"),
        (0, None, "auto", "no finished cycle yet"),
        (3, 4, "auto", "--members 4: the run has 3 snapshots; ask for at most 3"),
        (11, None, "exhaustive", "here are 11; use --select greedy"),
    ],
)
def test_a_wrong_number_is_refused(count: int, members: Members, rule: Rule, message: str) -> None:
    probs_SNK, labels_N = (
        snapshots(5, count=count) if count else (np.empty((0, 1, K)), np.zeros(1, np.int64))
    )
    with pytest.raises(InvalidConfig, match=message):
        select(probs_SNK, labels_N, members=members, rule=rule)


@pytest.mark.parametrize(
    ("weights", "members", "message"),
    [
        ("soup", None, "--weights soup: the run has no such snapshots, only ema, last; a soup"),
        ("ema", 2, "--members 2: the run has 1 snapshot of --weights ema; ask for at most 1"),
    ],
)
def test_what_is_said_of_a_kind_of_weights_is_of_that_kind(
    weights: Weights, members: Members, message: str
) -> None:
    probs_SNK, labels_N = snapshots(5, count=3)
    kinds: list[Weights] = ["last", "last", "ema"]
    with pytest.raises(InvalidConfig, match=message):
        select(probs_SNK, labels_N, kinds, members=members, rule="best", weights=weights)
