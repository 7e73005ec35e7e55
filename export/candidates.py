"""The snapshots of several runs of one task as candidates, with their validation answers.

Averages of the weights are candidates too.

Shapes: S snapshots of all runs, N validation images, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.metrics import Floats, softmax
from snapensemble.contracts.run import (
    MIN_EPOCHS,
    RunManifest,
    Snapshot,
    Weights,
    read_array,
    read_run,
    read_validation,
)
from snapensemble.trainer.recording.snapshots import load_model


@dataclass(frozen=True, slots=True)
class Candidate:
    """A snapshot and the run that made it."""

    name: str  # the name of the member that it may become
    run_dir: Path
    run: RunManifest
    run_number: int  # from 0, in the order the directories were given
    snapshot: Snapshot
    state: Mapping[str, Tensor] | None = None  # weights that no run has kept, see export.soup

    def network(self) -> nn.Module:
        """The whole network, in evaluation mode.

        Raises:
            InvalidManifest: a file is absent, changed or does not fit the architecture.
            InvalidConfig: the architecture is not known, or what it needs is not installed.
        """
        network = load_model(self.run_dir, self.run, self.snapshot)
        if self.state is not None:
            network.load_state_dict(dict(self.state))
        return network


@dataclass(frozen=True, slots=True)
class Pool:
    """All snapshots of all runs, by cycle and then by run, so that `last` means the latest.

    The averages of a cycle's weights follow its last ones.
    """

    candidates: tuple[Candidate, ...]
    probs_SNK: Floats
    labels_N: NDArray[np.int64]

    @property
    def first_run(self) -> RunManifest:
        """The run given first, which stands for what all of them have in common."""
        return min(self.candidates, key=lambda candidate: candidate.run_number).run

    @property
    def last(self) -> int:
        """The place of the last snapshot: that of the latest cycle, of the run given last."""
        return max(s for s, kind in enumerate(self.kinds_S) if kind == "last")

    @property
    def kinds_S(self) -> list[Weights]:  # noqa: N802 # a shape suffix
        """Which weights each candidate holds."""
        return [candidate.snapshot.weights for candidate in self.candidates]

    @property
    def pays_S(self) -> list[bool]:  # noqa: N802 # a shape suffix
        """Whether each candidate is of a cycle that is long enough to be averaged, or of the last.

        The last one of its run, that is: it is served alone where no other pays.
        """
        return [
            each.snapshot.cycle == each.run.snapshots[-1].cycle
            or each.run.schedule.pays(each.snapshot.cycle)
            for each in self.candidates
        ]

    def with_candidate(self, candidate: Candidate, probs_NK: Floats) -> "Pool":
        """The same pool with one more candidate at its end, and its validation answers."""
        return Pool(
            (*self.candidates, candidate),
            np.concatenate([self.probs_SNK, probs_NK[None]]),
            self.labels_N,
        )

    @property
    def trusted(self) -> Weights:
        """Which weights to take where validation sees no difference.

        In cycles of many epochs moving averages had a better NLL than the last weights on the
        images that validate (by 0.6 to 2.3 %), in short ones a worse one (up to 0.7 %).
        """
        latest = self.candidates[-1]
        run, cycle = latest.run, latest.snapshot.cycle
        return "ema" if run.schedule.epochs_of(cycle) >= MIN_EPOCHS else "last"

    def calibration_images(self) -> NDArray[np.uint8]:
        """Training images that the run of the first candidate has kept: [N, C, H, W]."""
        first = self.candidates[0]
        return read_array(first.run_dir, first.run.calibration_images, np.uint8)


def pooled(run_dirs: Sequence[Path]) -> Pool:
    """Read the runs and put their snapshots together.

    Raises:
        InvalidManifest: a directory is damaged.
        InvalidConfig: the runs differ in classes, images or validation split, a run is given
            twice, or no run has finished a cycle.
    """
    runs = [read_run(run_dir) for run_dir in run_dirs]
    for run_dir, run in zip(run_dirs, runs, strict=True):
        _refuse_stranger(run_dirs[0], runs[0], run_dir, run)
    if len({run_dir.resolve() for run_dir in run_dirs}) < len(run_dirs):
        raise InvalidConfig("a run directory is given twice; its snapshots would count double")
    found: list[tuple[Candidate, NDArray[np.float32]]] = []
    for number, (run_dir, run) in enumerate(zip(run_dirs, runs, strict=True)):
        logits_SNK, labels_N = read_validation(run_dir, run)
        for snapshot, logits_NK in zip(run.all_snapshots, logits_SNK, strict=True):
            name = snapshot.name if len(runs) == 1 else f"run-{number}-{snapshot.name}"
            found.append((Candidate(name, run_dir, run, number, snapshot), logits_NK))
    if not found:
        raise InvalidConfig("the run has no finished cycle yet, so there is nothing to export")
    found.sort(key=lambda each: (each[0].snapshot.cycle, each[0].run_number))  # kinds as they are
    return Pool(
        tuple(candidate for candidate, _ in found),
        softmax(np.stack([logits_NK for _, logits_NK in found])),
        labels_N,
    )


def _refuse_stranger(
    first_dir: Path, first: RunManifest, other_dir: Path, other: RunManifest
) -> None:
    """Refuse a run that cannot be averaged with the first, class by class and image by image."""
    if other.classes != first.classes:
        same = set(other.classes) == set(first.classes)
        raise InvalidConfig(
            f"{other_dir} has {'the same classes in another order' if same else 'other classes'} "
            f"than {first_dir}: {list(other.classes)} and {list(first.classes)}"
        )
    if other.image != first.image:
        raise InvalidConfig(
            f"{other_dir} has another image contract than {first_dir}: "
            f"{other.image} and {first.image}"
        )
    if (other.data.fingerprint, other.val_labels.sha256) != (
        first.data.fingerprint,
        first.val_labels.sha256,
    ):
        raise InvalidConfig(
            f"{other_dir} was trained and validated on other images than {first_dir}, so their "
            "figures cannot be compared; train with the same --data, --val-fraction and "
            "--split-seed"
        )
