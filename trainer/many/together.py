"""train_all(): several runs, one after another or on a cluster, and how they become one bundle."""

from collections.abc import Sequence
from pathlib import Path

from snapensemble.contracts.cluster.options import RayOptions
from snapensemble.contracts.errors import SnapensembleError, message_of
from snapensemble.contracts.process import say
from snapensemble.trainer.many.cluster import train_on_cluster
from snapensemble.trainer.many.runs import OneRun


class RunsFailed(SnapensembleError):
    """Some of several runs could not be trained; the others are finished."""


def train_all(runs: Sequence[OneRun], ray: RayOptions) -> list[Path]:
    """Train several runs, here or on a cluster; give their directories.

    Raises:
        RunsFailed: some of them could not be trained.
        InvalidConfig: there is no such cluster; or the one run cannot work.
        Stopped: a signal came; what was under way has a checkpoint.
    """
    problems: dict[Path, str] = {}
    if ray.ray is None:
        for number, run in enumerate(runs, 1):
            say(f"run {number} of {len(runs)}: {run.out}")
            try:
                run.train()
            except SnapensembleError as error:
                problems[run.out] = message_of(error)
    else:
        problems = train_on_cluster(runs, ray)
    finished = [run.out for run in runs if run.out not in problems]
    if finished:
        say(pooling([*{run.origin for run in runs if run.origin is not None}, *finished]))
    if problems:
        lines = [f"{out}: {problem}" for out, problem in problems.items()]
        raise RunsFailed(
            f"{len(problems)} of {len(runs)} runs could not be trained:\n" + "\n".join(lines)
        )
    return finished


def pooling(runs: Sequence[Path]) -> str:
    """How the snapshots of several runs become one bundle, in words."""
    return f"pool them: snapensemble export {' '.join(map(str, runs))} --out BUNDLE_DIR"
