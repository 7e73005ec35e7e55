"""The snapshots of several runs of one task as candidates, with their validation answers.

Averages of the weights are candidates too.

Shapes: S snapshots of all runs, N validation images, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from snapensemble.contracts.bundle import ClassPrior
from snapensemble.contracts.errors import InvalidConfig, InvalidManifest
from snapensemble.contracts.manifest import how_classes_differ
from snapensemble.contracts.metrics import Floats, Metric, softmax, val_figures
from snapensemble.contracts.run import (
    MIN_EPOCHS,
    RunManifest,
    Snapshot,
    Weights,
    read_array,
    read_run,
    read_validation,
)
from snapensemble.export.calibration import split_validation
from snapensemble.export.temperature import fit_temperature
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
    offsets_K: Floats | None = None  # subtracted from its logits, see UniformPrior

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


class Judged(NamedTuple):
    """A network's answers to the validation images."""

    probs_NK: Floats  # as it will give them as a member
    judged_NK: Floats  # the same for the class shares of these images, by which an NLL can judge
    offsets_K: Floats | None = None  # what is subtracted from its logits

    def by(self, metric: Metric) -> Floats:
        """The answers that a metric judges; an accuracy sees which class will be named."""
        return self.judged_NK if metric == "nll" else self.probs_NK


@dataclass(frozen=True, slots=True)
class UniformPrior:
    """Lets networks answer as if all classes were equally frequent (Menon et al. 2021).

    The logarithms of the class shares that a network was taught with are subtracted from its
    logits (arXiv:2007.07314, section 4.2). That is Bayes' rule where these are logarithms of
    probabilities, so it is done to calibrated logits: before the temperature T it is T times as
    much. Validation has its own class shares; with these put back, its NLL can judge.
    """

    labels_N: NDArray[np.int64]
    log_shares_K: Floats  # of the validation images

    @classmethod
    def of(cls, labels_N: NDArray[np.int64], counts_K: Sequence[int]) -> "UniformPrior":
        """The shares of the validation images, and of K more that are as frequent as in training.

        So a class that validation has no image of keeps a share.

        Args:
            labels_N: of the validation images.
            counts_K: training images of each class, at least one.
        """
        K, shares_K = len(counts_K), np.array(counts_K) / sum(counts_K)
        found_K = np.bincount(labels_N, minlength=K) + K * shares_K
        return cls(labels_N, np.log(found_K / found_K.sum()))

    def judged(self, logits_NK: NDArray[np.floating], run: RunManifest) -> Judged:
        """The answers of one of a run's networks; its temperature is fitted as members are chosen.

        Args:
            logits_NK: to the validation images.
            run: has kept its class counts.
        """
        prior_K = np.array(run.class_prior)
        log_prior_K = np.log(prior_K / prior_K.max())  # equal shares change nothing
        chosen_by = split_validation(self.labels_N).selection_N
        temperature = fit_temperature(
            softmax(logits_NK[chosen_by]), self.labels_N[chosen_by], self.log_shares_K - log_prior_K
        )
        offsets_K = temperature * log_prior_K
        adjusted_NK = logits_NK - offsets_K
        back_NK = adjusted_NK + temperature * self.log_shares_K
        return Judged(softmax(adjusted_NK), softmax(back_NK), offsets_K)


@dataclass(frozen=True, slots=True)
class Pool:
    """All snapshots of all runs, by cycle and then by run, so that `last` means the latest.

    The averages of a cycle's weights follow its last ones.
    """

    candidates: tuple[Candidate, ...]
    probs_SNK: Floats  # as members would answer
    judged_SNK: Floats  # the same, as an NLL judges them, see Judged
    labels_N: NDArray[np.int64]
    prior: UniformPrior | None = None  # None: the classes are as frequent as in training

    def judged_by(self, metric: Metric) -> Floats:
        """The answers that a metric judges, see `Judged.by`."""
        return self.judged_SNK if metric == "nll" else self.probs_SNK

    @property
    def log_shares_K(self) -> Floats | None:  # noqa: N802 # a shape suffix
        """Logarithms of the class shares of validation, where answers are for other ones."""
        return None if self.prior is None else self.prior.log_shares_K

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
            or each.run.schedule.pays(each.snapshot.cycle, each.snapshot.weights)
            for each in self.candidates
        ]

    def with_candidate(self, candidate: Candidate, answers: Judged) -> "Pool":
        """The same pool with one more candidate at its end, and its validation answers."""
        return replace(
            self,
            candidates=(*self.candidates, candidate),
            probs_SNK=np.concatenate([self.probs_SNK, answers.probs_NK[None]]),
            judged_SNK=np.concatenate([self.judged_SNK, answers.judged_NK[None]]),
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
        """Training images that the run of the first candidate has kept: [N, C, H, W].

        Raises:
            InvalidManifest: they are damaged, or not as the run says.
        """
        first = self.candidates[0]
        reference, shape = first.run.calibration_images, first.run.image.shape
        images_NCHW = read_array(first.run_dir, reference, np.uint8)
        if images_NCHW.shape[1:] != shape or not len(images_NCHW):
            raise InvalidManifest(
                f"{first.run_dir / reference.file}: shape {images_NCHW.shape}, expected images of "
                f"{shape}"
            )
        return images_NCHW


def judged(logits_NK: NDArray[np.floating], run: RunManifest, prior: UniformPrior | None) -> Judged:
    """A network's answers as they are, or for another class prior than training's."""
    if prior is not None:
        return prior.judged(logits_NK, run)
    probs_NK = softmax(logits_NK)
    return Judged(probs_NK, probs_NK)


def pooled(run_dirs: Sequence[Path], class_prior: ClassPrior = "training") -> Pool:
    """Read the runs and put their snapshots together.

    Args:
        run_dirs: made by `train`.
        class_prior: for which class shares the networks shall answer.

    Raises:
        InvalidManifest: a directory is damaged.
        InvalidConfig: the runs differ in classes, images or validation split, a run is given
            twice, no run has finished a cycle, or a run has not kept how many training images
            each class has, which another class prior needs.
    """
    runs = [read_run(run_dir) for run_dir in run_dirs]
    for run_dir, run in zip(run_dirs, runs, strict=True):
        _refuse_stranger(run_dirs[0], runs[0], run_dir, run)
    if len({run_dir.resolve() for run_dir in run_dirs}) < len(run_dirs):
        raise InvalidConfig("a run directory is given twice; its snapshots would count double")
    _refuse_copies(run_dirs, runs)
    prior: UniformPrior | None = None
    found: list[tuple[Candidate, Judged]] = []
    for number, (run_dir, run) in enumerate(zip(run_dirs, runs, strict=True)):
        logits_SNK, labels_N = read_validation(run_dir, run)
        if class_prior == "uniform":
            _refuse_uncounted(run_dir, run)
            prior = UniformPrior.of(labels_N, run.data.class_counts)
        for snapshot, logits_NK in zip(run.all_snapshots, logits_SNK, strict=True):
            name = snapshot.name if len(runs) == 1 else f"run-{number}-{snapshot.name}"
            answers = judged(logits_NK, run, prior)
            if prior is not None:  # the run has measured other answers
                val = val_figures(answers.probs_NK, labels_N)
                snapshot = snapshot.model_copy(update={"val": val})
            candidate = Candidate(name, run_dir, run, number, snapshot, offsets_K=answers.offsets_K)
            found.append((candidate, answers))
    if not found:
        raise InvalidConfig("the run has no finished cycle yet, so there is nothing to export")
    found.sort(key=lambda each: (each[0].snapshot.cycle, each[0].run_number))  # kinds as they are
    candidates, answers_S = zip(*found, strict=True)
    probs_SNK = np.stack([answers.probs_NK for answers in answers_S])
    judged_SNK = probs_SNK if prior is None else np.stack([each.judged_NK for each in answers_S])
    return Pool(candidates, probs_SNK, judged_SNK, labels_N, prior)


def _refuse_uncounted(run_dir: Path, run: RunManifest) -> None:
    if len(run.data.class_counts) != len(run.classes):
        raise InvalidConfig(
            f"--class-prior uniform: {run_dir} does not say how many training images each class "
            "has, as runs of earlier versions do not; train again, or leave --class-prior out"
        )


def _refuse_copies(run_dirs: Sequence[Path], runs: Sequence[RunManifest]) -> None:
    """Refuse weights that two runs have kept: of one seed, or of a star and of its branch."""
    found: dict[str, Path] = {}
    for run_dir, run in zip(run_dirs, runs, strict=True):
        for snapshot in run.snapshots:
            other = found.setdefault(snapshot.sha256, run_dir / snapshot.file)
            if other != run_dir / snapshot.file:
                raise InvalidConfig(
                    f"{run_dir / snapshot.file} and {other} are the same weights, which would "
                    "count double; leave one of the runs out, or train it with another --seed"
                )


def _refuse_stranger(
    first_dir: Path, first: RunManifest, other_dir: Path, other: RunManifest
) -> None:
    """Refuse a run that cannot be averaged with the first, class by class and image by image."""
    if other.classes != first.classes:
        raise InvalidConfig(
            f"{other_dir} cannot be averaged with {first_dir}: it "
            f"{how_classes_differ(other.classes, first.classes)}"
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
