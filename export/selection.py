"""Which snapshots become members, by their answers to the selection half of validation. Pure.

`auto` compares averages of the probabilities of several snapshots with single networks: the last
snapshot, and averages of the weights, which cost one member. Each contender is measured after a
temperature of its own (Ashukha et al. 2020, arXiv:2002.06470, section 4), fitted on other images
than those it is measured on (cross-fitting), so that none is flattered. With fewer images than a
paired test needs it takes what was measured on other data sets to be right: the cycles that are
long enough to pay, averaged, or the last one alone (docs/decisions/0032).

The other rules give a path of ensembles of the snapshots of one kind, and `members` says which of
them is taken. An ensemble is a bag of snapshots: one that is in it twice counts twice.

Shapes: S snapshots, N images, K classes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from scipy.stats import t as student

from snapensemble.contracts.bundle import Rule
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.metrics import (
    SMALLEST,
    Floats,
    Labels,
    Metric,
    class_weights,
    errors,
    nlls,
    tempered,
)
from snapensemble.contracts.run import Weights
from snapensemble.export.config import DEFAULT_MEMBERS
from snapensemble.export.temperature import fit_temperature

Members = int | Literal["auto"] | None
Bag = tuple[int, ...]  # indices of snapshots, in the order they joined

MAX_EXHAUSTIVE = 10  # snapshots: 1,023 subsets
GREEDY_STEPS = 50
FOLDS, FOLDS_OF_MANY, MANY = 5, 2, 1_000  # half of so many images fit a temperature well
CONFIDENCE = 0.95  # one-sided, of the paired test
FEW = 200  # selection images: with fewer, `auto` compares nothing
_SEED = 0


@dataclass(frozen=True, slots=True)
class Chosen:
    """Snapshots in the order in which a cascade runs them, and their weights, summing to 1."""

    indices: tuple[int, ...]
    weights: tuple[float, ...]
    reason: str | None = None  # of `auto`: why these, in a sentence


@dataclass(frozen=True, slots=True)
class Contender:
    """Snapshots whose probabilities are averaged, and the loss of each image, out of fold."""

    bag: Bag
    losses_N: Floats

    @property
    def loss(self) -> float:
        """The mean loss."""
        return float(self.losses_N.mean())

    def is_worse_than(self, other: "Contender") -> bool:
        """Whether a one-sided paired t-test finds the mean loss higher, at 95 % confidence."""
        excess_N = self.losses_N - other.losses_N
        error = excess_N.std(ddof=1) / np.sqrt(len(excess_N))
        return bool(excess_N.mean() > student.ppf(CONFIDENCE, len(excess_N) - 1) * error)


class Judge:
    """Measures how bad a bag's averaged probabilities are; lower is better."""

    def __init__(self, probs_SNK: Floats, labels_N: Labels, metric: Metric) -> None:
        self.snapshots = len(probs_SNK)
        self._metric = metric
        self._probs_SNK = probs_SNK
        self.labels_N = labels_N
        self._right_SN = probs_SNK[:, np.arange(len(labels_N)), labels_N]

    def badness(self, bag: Sequence[int]) -> tuple[float, ...]:
        """The mean loss; between equal accuracies, the NLL decides."""
        nll = float(self._nlls_N(bag).mean())
        return (nll,) if self._metric == "nll" else (float(self.losses_N(bag).mean()), nll)

    def losses_N(self, bag: Sequence[int]) -> Floats:  # noqa: N802 # a shape suffix
        """The loss of each image: nats, or what a wrong answer counts."""
        if self._metric == "nll":
            return self._nlls_N(bag)
        mean_NK = self._probs_SNK[list(bag)].mean(axis=0)
        return errors(mean_NK, self.labels_N, macro=self._metric == "macro")

    def _nlls_N(self, bag: Sequence[int]) -> Floats:  # noqa: N802 # a shape suffix
        return np.asarray(-np.log(np.maximum(self._right_SN[list(bag)].mean(axis=0), SMALLEST)))


def select(
    probs_SNK: Floats,
    labels_N: Labels,
    kinds_S: Sequence[Weights] | None = None,
    pays_S: Sequence[bool] | None = None,
    *,
    members: Members = None,
    rule: Rule = "auto",
    metric: Metric = "nll",
    weights: Weights = "last",
    trusted: Weights = "ema",
) -> Chosen:
    """Choose members and their shares.

    `auto` takes the cheapest contender that a paired test does not find worse than the best. Of the
    others, `best` takes the snapshots with the best figures of their own, `last` the latest ones
    (Huang et al. 2017, section 3), `all` every one. `greedy` adds, again and again, the snapshot
    that helps the average most, also one that is in already, and keeps the best prefix; counts
    become weights (Caruana et al. 2004). `exhaustive` compares all subsets.

    Args:
        probs_SNK: one distribution per snapshot and image, in the order of training.
        labels_N: the right classes.
        kinds_S: which weights each snapshot holds; all the last ones of their cycles if not given.
        pays_S: whether each is of a cycle that is long enough to be averaged, or of its run's last
            one; only the last snapshots of their kind if not given.
        members: how many; `greedy` may take fewer. `auto`: the fewest whose mean loss is within
            one standard error of the lowest on the rule's path, where the error is that of the
            difference, image by image. None: 3 for `best` and `last`, otherwise as many as have
            the lowest loss. The rule `auto` takes None and `auto` alike.
        rule: one of the six above.
        metric: the figure that is compared.
        weights: the kind of snapshots that the other rules choose from.
        trusted: the kind, `ema` or `last`, that `auto` takes where a test finds no difference.

    Raises:
        InvalidConfig: more members than snapshots, too many snapshots to compare all subsets, or
            no snapshot.
    """
    kinds_S = ["last"] * len(probs_SNK) if kinds_S is None else kinds_S
    if rule == "auto":
        bags = _refuse_impossible_bags(contending_bags(kinds_S, trusted), members)
        if comparable(labels_N, metric) >= FEW:
            return _compared(bags, probs_SNK, labels_N, kinds_S, metric)
        pays_S = [False] * len(kinds_S) if pays_S is None else pays_S
        judge, asked = Judge(probs_SNK, labels_N, metric), isinstance(members, int)
        return _trusted(bags, kinds_S, pays_S, judge, metric, asked=asked)
    eligible = [s for s, kind in enumerate(kinds_S) if kind == weights]
    if kinds_S and not eligible:
        raise InvalidConfig(
            f"--weights {weights}: the run has no such snapshots, only "
            f"{', '.join(sorted(set(kinds_S)))}"
            + ("; a soup takes two cycles" if weights == "soup" else "")
        )
    _refuse_impossible(len(eligible), members, rule, weights)
    judge = Judge(probs_SNK[eligible], labels_N, metric)
    chosen = _ordered(_pick(_path(judge, rule, members), judge, members, rule), judge)
    return Chosen(tuple(eligible[i] for i in chosen.indices), chosen.weights)


def contending_bags(kinds_S: Sequence[Weights], trusted: Weights = "ema") -> list[Bag]:
    """What `auto` compares: the latest 1, 2, ... snapshots of a kind, and other averages alone.

    In the order of trust: the trusted kind comes first. The moving averages of earlier cycles come
    last. Alone they are better where later cycles have only made the network surer of its images.
    """
    bags: list[Bag] = []
    for kind in ("ema", "last") if trusted == "ema" else ("last", "ema"):
        latest = [s for s, found in enumerate(kinds_S) if found == kind][::-1]
        bags += [tuple(latest[:m]) for m in range(1, len(latest) + 1)]
    alone = {
        kind: [(s,) for s, found in enumerate(kinds_S) if found == kind]
        for kind in ("tail", "soup", "ema")
    }
    return bags + alone["tail"][-1:] + alone["soup"] + alone["ema"][-2::-1]


def cross_fitted(probs_SNK: Floats, labels_N: Labels, bag: Bag, metric: Metric) -> Contender:
    """Measure a bag with temperatures that were fitted without the image.

    Args:
        probs_SNK: one distribution per snapshot and image.
        labels_N: the right classes.
        bag: what is averaged.
        metric: `nll`: losses in nats; `accuracy` and `macro`: what a wrong answer counts.
    """
    mean_NK = probs_SNK[list(bag)].mean(axis=0)
    if metric != "nll":  # no temperature changes which class is the likeliest
        return Contender(bag, errors(mean_NK, labels_N, macro=metric == "macro"))
    N = len(labels_N)
    folds = FOLDS if N < MANY else FOLDS_OF_MANY
    fold_N = np.random.default_rng(_SEED).permutation(N) % folds
    losses_N = np.empty(N)
    for fold in range(folds):
        out_N = fold_N == fold
        temperature = fit_temperature(mean_NK[~out_N], labels_N[~out_N])
        losses_N[out_N] = nlls(tempered(mean_NK[out_N], temperature), labels_N[out_N])
    return Contender(bag, losses_N)


def comparable(labels_N: Labels, metric: Metric) -> int:
    """How many images of equal weight tell as much as these do, by a metric.

    Where every class counts the same, a few images of a rare class decide as much as hundreds of
    another, and the mean of all strays as that of fewer images would (Kish 1965, Survey Sampling).
    """
    if metric != "macro":
        return len(labels_N)
    return round(len(labels_N) / float((class_weights(labels_N) ** 2).mean()))


def cheapest_not_worse(contenders: Sequence[Contender]) -> Contender:
    """The first that does not lose to the best; fewer members come first, else their own order.

    Taking the one with the least loss of those with as many members would let chance choose.
    """
    best = min(contenders, key=lambda each: each.loss)
    by_price = sorted(contenders, key=lambda each: len(each.bag))  # keeps the order of equals
    return next(each for each in by_price if not each.is_worse_than(best))


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


def _refuse_impossible_bags(bags: list[Bag], members: Members) -> list[Bag]:
    """Those with so many members, if a number is asked for."""
    _refuse_impossible(max(map(len, bags), default=0), members, "auto")
    return [bag for bag in bags if len(bag) == members] if isinstance(members, int) else bags


def _compared(
    bags: Sequence[Bag],
    probs_SNK: Floats,
    labels_N: Labels,
    kinds_S: Sequence[Weights],
    metric: Metric,
) -> Chosen:
    contenders = [cross_fitted(probs_SNK, labels_N, bag, metric) for bag in bags]
    best, taken = min(contenders, key=lambda each: each.loss), cheapest_not_worse(contenders)
    among = f"{len(contenders)} contenders on {len(labels_N):,} selection images"
    if taken is best:
        is_dearer = any(len(bag) < len(best.bag) for bag in bags)
        cheaper = "; all cheaper ones are worse" if is_dearer else ""
        reason = f"{_named(best.bag, kinds_S)}: the best of {among}{cheaper}"
    else:
        reason = (
            f"{_named(taken.bag, kinds_S)}: the cheapest of {among} that a paired test does not "
            f"find worse than the best, {_named(best.bag, kinds_S)}"
        )
    return replace(_ordered(taken.bag, Judge(probs_SNK, labels_N, metric)), reason=reason)


def _trusted(
    bags: Sequence[Bag],
    kinds_S: Sequence[Weights],
    pays_S: Sequence[bool],
    judge: Judge,
    metric: Metric,
    *,
    asked: bool,
) -> Chosen:
    """The largest bag of cycles that pay, of the first kind there is; else its smallest one."""
    kind = kinds_S[bags[0][0]]
    own = [bag for bag in bags if kinds_S[bag[0]] == kind]
    taken = max((bag for bag in own if all(pays_S[s] for s in bag)), key=len, default=own[0])
    pays = "their cycles are long enough" if len(taken) > 1 else "no earlier cycle is long enough"
    why = "so many members are asked for" if asked else f"{pays} to be averaged"
    count = f"{len(judge.labels_N):,} selection images"
    if metric == "macro":
        count += f", worth {comparable(judge.labels_N, metric):,} where each class counts the same,"
    reason = f"{_named(taken, kinds_S)}: {count} are too few to compare ({FEW} would do), and {why}"
    return replace(_ordered(taken, judge), reason=reason)


def _named(bag: Bag, kinds_S: Sequence[Weights]) -> str:
    kind = kinds_S[bag[0]]
    one, several = {
        "last": ("the last snapshot", "the latest snapshots"),
        "ema": ("the last cycle's moving average of the weights", "the cycles' moving averages"),
        "tail": ("the average of the last cycle's tail", "the averages of the cycles' tails"),
        "soup": ("the mean of several snapshots' weights", ""),
    }[kind]
    if kind == "ema" and len(bag) == 1 and "ema" in kinds_S[bag[0] + 1 :]:
        one = "another cycle's moving average of the weights"
    if len(bag) == 1:
        return f"{one} (the price of one network)"
    return f"{several} ({len(bag)} members, the price of {len(bag)} networks)"


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


def _refuse_impossible(found: int, members: Members, rule: Rule, weights: Weights = "last") -> None:
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
            f"--members {members}: the run has {found} snapshot{'' if found == 1 else 's'}"
            + ("" if weights == "last" else f" of --weights {weights}")
            + f"; ask for at most {found}, or train more cycles"
        )
    if rule == "all" and members != found:
        raise InvalidConfig(f"--select all takes all {found} snapshots; leave --members out")
