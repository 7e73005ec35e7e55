"""The best m snapshots, chosen on the validation split. Pure functions over its figures.

Shapes: S snapshots, M members, N validation images, K classes.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from contracts.errors import InvalidConfig
from contracts.figures import Metric, rank
from contracts.records import ValFigures

Rule = Literal["best", "last", "all"]
RULES: tuple[Rule, ...] = get_args(Rule)
METRICS: tuple[Metric, ...] = get_args(Metric)
DEFAULT_MEMBERS = 3


def select(
    val_S: Sequence[ValFigures], *, m: int | None, rule: Rule, metric: Metric = "nll"
) -> list[int]:
    """Which snapshots become members.

    `best` takes the m with the best validation figure, `last` the m latest (Huang et al. 2017,
    section 3), `all` every one.

    Args:
        val_S: the snapshots' figures, in the order of their cycles.
        m: how many; None is 3, or fewer if there are fewer, and every one for `all`.
        rule: see above.
        metric: what `best` compares, and what orders the members.

    Returns:
        Indices into `val_S`, best first whatever the rule: a cascade asks the best one first.

    Raises:
        InvalidConfig: there are fewer than m snapshots, or none.
    """
    found = len(val_S)
    if found == 0:
        raise InvalidConfig("the run has no finished cycle yet, so there is nothing to export")
    if m is None:
        m = found if rule == "all" else min(DEFAULT_MEMBERS, found)
    if m < 1:
        raise InvalidConfig(f"--members must be at least 1, got {m}")
    if m > found:
        raise InvalidConfig(
            f"--members {m}: the run has {found} snapshot{'' if found == 1 else 's'}; "
            f"ask for at most {found}, or train more cycles"
        )
    if rule == "all" and m != found:
        raise InvalidConfig(f"--select all takes all {found} snapshots; leave --members out")
    ranked = rank(val_S, metric)
    if rule == "last":
        return [index for index in ranked if index >= found - m]
    return ranked[:m]
