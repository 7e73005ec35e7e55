"""Which snapshots become members, by their answers to the selection half of validation. Pure.

Every rule gives a path of ensembles, and `members` says which of them is taken. An ensemble is a
bag of snapshots: one that is in it twice counts twice.

Shapes: S snapshots, N images, K classes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from snapensemble.contracts.bundle import Rule
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.metrics import SMALLEST, Floats, Labels, Metric

Members = int | Literal["auto"] | None
Bag = tuple[int, ...]  # indices of snapshots, in the order they joined

DEFAULT_MEMBERS = 3  # for the rules `best` and `last`
MAX_EXHAUSTIVE = 10  # snapshots: 1,023 subsets
GREEDY_STEPS = 50


@dataclass(frozen=True, slots=True)
class Chosen:
    """Snapshots in the order in which a cascade runs them, and their weights, summing to 1."""

    indices: tuple[int, ...]
    weights: tuple[float, ...]


class Judge:
    """Measures how bad a bag's averaged probabilities are; lower is better."""

    def __init__(self, probs_SNK: Floats, labels_N: Labels, metric: Metric) -> None:
        self.snapshots = len(probs_SNK)
        self._metric = metric
        self._probs_SNK = probs_SNK
        self._labels_N = labels_N
        self._right_SN = probs_SNK[:, np.arange(len(labels_N)), labels_N]

    def badness(self, bag: Sequence[int]) -> tuple[float, ...]:
        """The mean loss; between equal accuracies, the NLL decides."""
        nll = float(self._nlls_N(bag).mean())
        return (nll,) if self._metric == "nll" else (float(self.losses_N(bag).mean()), nll)

    def losses_N(self, bag: Sequence[int]) -> Floats:  # noqa: N802 # a shape suffix
        """The loss of each image: nats, or 1 for a wrong answer."""
        if self._metric == "nll":
            return self._nlls_N(bag)
        wrong_N = self._probs_SNK[list(bag)].mean(axis=0).argmax(axis=1) != self._labels_N
        return np.asarray(wrong_N, dtype=np.float64)

    def _nlls_N(self, bag: Sequence[int]) -> Floats:  # noqa: N802 # a shape suffix
        return np.asarray(-np.log(np.maximum(self._right_SN[list(bag)].mean(axis=0), SMALLEST)))


def select(
    probs_SNK: Floats,
    labels_N: Labels,
    *,
    members: Members = None,
    rule: Rule = "best",
    metric: Metric = "nll",
) -> Chosen:
    """Choose members and weights.

    `best` takes the snapshots with the best figures of their own, `last` the latest ones (Huang et
    al. 2017, section 3), `all` every one. `greedy` adds, again and again, the snapshot that helps
    the average most, also one that is in already, and keeps the best prefix; counts become weights
    (Caruana et al. 2004). `exhaustive` compares all subsets.

    Args:
        probs_SNK: one distribution per snapshot and image, in the order of training.
        labels_N: the right classes.
        members: how many; `greedy` may take fewer. `auto`: the fewest whose mean loss is within
            one standard error of the lowest on the rule's path, where the error is that of the
            difference, image by image. None: 3 for `best` and `last`, otherwise as many as have
            the lowest loss.
        rule: one of the five above.
        metric: the figure that is compared.

    Raises:
        InvalidConfig: more members than snapshots, too many snapshots to compare all subsets, or
            no snapshot.
    """
    _refuse_impossible(len(probs_SNK), members, rule)
    judge = Judge(probs_SNK, labels_N, metric)
    bag = _pick(_path(judge, rule, members), judge, members, rule)
    return _ordered(bag, judge)


def best_path(judge: Judge) -> list[Bag]:
    """The best snapshot, the best two, ...; of equals the later one, which trained longer."""
    ranked = sorted(range(judge.snapshots), key=lambda i: (judge.badness([i]), -i))
    return [tuple(ranked[:m]) for m in range(1, len(ranked) + 1)]


def last_path(judge: Judge) -> list[Bag]:
    """The latest snapshot, the latest two, and so on."""
    latest = tuple(reversed(range(judge.snapshots)))
    return [latest[:m] for m in range(1, len(latest) + 1)]


def greedy_path(judge: Judge, most: int) -> list[Bag]:
    """Forward selection with replacement, of at most `most` different snapshots.

    Among equally good additions, one that is in already is taken: it costs no further member.
    """
    bag: Bag = ()
    path = []
    for _ in range(GREEDY_STEPS):
        allowed = range(judge.snapshots) if len(set(bag)) < most else sorted(set(bag))
        inside = bag
        added = min(allowed, key=lambda i: (judge.badness((*inside, i)), i not in inside, -i))
        bag = (*bag, added)
        path.append(bag)
    return path


def exhaustive_path(judge: Judge) -> list[Bag]:
    """The best subset of each size."""
    return [
        min(combinations(range(judge.snapshots), m), key=judge.badness)
        for m in range(1, judge.snapshots + 1)
    ]


def _path(judge: Judge, rule: Rule, members: Members) -> list[Bag]:
    if rule == "greedy":
        return greedy_path(judge, members if isinstance(members, int) else judge.snapshots)
    if rule == "exhaustive":
        return exhaustive_path(judge)
    if rule == "all":
        return [tuple(range(judge.snapshots))]
    return best_path(judge) if rule == "best" else last_path(judge)


def _pick(path: list[Bag], judge: Judge, members: Members, rule: Rule) -> Bag:
    lowest = min(path, key=lambda bag: (judge.badness(bag), len(set(bag))))
    if members == "auto":
        return _fewest_within_one_standard_error(path, judge, lowest)
    if rule in ("greedy", "all"):
        return lowest
    if members is None:
        if rule == "exhaustive":
            return lowest
        members = min(DEFAULT_MEMBERS, len(path))
    return path[members - 1]


def _fewest_within_one_standard_error(path: list[Bag], judge: Judge, lowest: Bag) -> Bag:
    lowest_N = judge.losses_N(lowest)
    by_members = sorted(path, key=lambda bag: (len(set(bag)), judge.badness(bag)))
    for bag in by_members:
        excess_N = judge.losses_N(bag) - lowest_N
        error = excess_N.std(ddof=1) / np.sqrt(len(excess_N)) if len(excess_N) > 1 else 0.0
        if excess_N.mean() <= error:
            return bag
    return lowest


def _ordered(bag: Bag, judge: Judge) -> Chosen:
    """Put the best member first, then whichever helps the average so far the most.

    The whole average does not depend on the order, but a cascade or a deadline may run only the
    first members.
    """
    counts = Counter(bag)
    left, order = set(counts), list[int]()
    while left:
        so_far = [i for i in order for _ in range(counts[i])]
        best = min(left, key=lambda i: (judge.badness([*so_far, *[i] * counts[i]]), -i))
        order.append(best)
        left.remove(best)
    return Chosen(tuple(order), tuple(counts[i] / len(bag) for i in order))


def _refuse_impossible(found: int, members: Members, rule: Rule) -> None:
    if found == 0:
        raise InvalidConfig("the run has no finished cycle yet, so there is nothing to export")
    if rule == "exhaustive" and found > MAX_EXHAUSTIVE:
        raise InvalidConfig(
            f"--select exhaustive compares every subset of at most {MAX_EXHAUSTIVE} snapshots, "
            f"here are {found}; use --select greedy"
        )
    if members is None or members == "auto":
        return
    if members < 1:
        raise InvalidConfig(f"--members must be at least 1, or auto, got {members}")
    if members > found:
        raise InvalidConfig(
            f"--members {members}: the run has {found} snapshot{'' if found == 1 else 's'}; "
            f"ask for at most {found}, or train more cycles"
        )
    if rule == "all" and members != found:
        raise InvalidConfig(f"--select all takes all {found} snapshots; leave --members out")
