"""Labels that may be wrong: what the networks say of pictures whose labels they were not told.

A network remembers the labels that it was taught, wrong ones too, so what it says of a training
picture itself is no evidence. Here a new last layer is fitted to its features, five times, each
time without a fifth of the pictures, and asked about these (Northcutt et al. 2021,
arXiv:1911.00068, want such out-of-fold probabilities). The features still remember something, the
least those of the weights with which fine-tuning began: these are asked too.

Shapes: N images, S suspects, C features before the last layer, K classes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.metrics import softmax
from snapensemble.contracts.process import say
from snapensemble.contracts.run import RunManifest
from snapensemble.trainer.config_file import run_config
from snapensemble.trainer.data.dataset import Dataset
from snapensemble.trainer.fine_tuning.features import features, folded
from snapensemble.trainer.fine_tuning.head import fit_head
from snapensemble.trainer.models.registry import Classifier, build_model
from snapensemble.trainer.models.tuning import HEAD, divided
from snapensemble.trainer.recording.snapshots import load_model
from snapensemble.trainer.validation import predict_logits

FOLDS = 5
L2 = 0.5  # ten times that of a first layer: a wrong label is to be outvoted, not fitted


class SuspectLabels(NamedTuple):
    """The images whose label is not their most probable class, the least probable label first."""

    images_S: NDArray[np.int64]
    suggested_S: NDArray[np.int64]  # the most probable class
    doubt_S: NDArray[np.float64]  # how improbable the label is, in [0, 1]


def suspect_labels(
    probs_NK: NDArray[np.floating], labels_N: NDArray[np.int64], most: int
) -> SuspectLabels:
    """At most `most` images whose label is doubtful; the same doubt keeps their order.

    The order is that of self-confidence in confident learning (Northcutt et al. 2021,
    arXiv:1911.00068).

    Args:
        probs_NK: of networks that have not been taught the image's own label.
        labels_N: the labels as they are.
        most: a number of suspects.
    """
    doubt_N = 1 - probs_NK[np.arange(len(labels_N)), labels_N].astype(np.float64)
    suggested_N = probs_NK.argmax(axis=1)
    suspects_S = np.flatnonzero(suggested_N != labels_N)
    images_S = suspects_S[np.argsort(-doubt_N[suspects_S], kind="stable")][:most]
    return SuspectLabels(images_S, suggested_N[images_S], doubt_N[images_S])


def probabilities(run_dir: Path, run: RunManifest, dataset: Dataset) -> NDArray[np.float32]:
    """probs_NK of the training and then the validation images: the mean over the networks.

    Networks that do not end with one linear layer, as some of timm do not, answer themselves; they
    know the labels that they were taught.

    Raises:
        InvalidConfig: the run has no finished cycle yet.
        InvalidManifest: a file is absent or damaged.
    """
    if not run.snapshots:
        raise InvalidConfig(
            f"{run_dir}: the run has no finished cycle yet, so no network can judge a label; "
            f"go on with it by snapensemble train --resume {run_dir}"
        )
    parts = [torch.from_numpy(part.images_NCHW) for part in (dataset.train, dataset.val)]
    labels_N = np.concatenate([dataset.train.labels_N, dataset.val.labels_N])
    found: list[NDArray[np.floating]] = []
    for name, network in _networks(run_dir, run):
        say(f"asking {name} about {len(labels_N):,} images")
        try:
            trunk, _ = divided(network, HEAD)
        except InvalidConfig:
            logits_NK = np.concatenate([predict_logits(network, part) for part in parts])
            found.append(softmax(logits_NK))
            continue
        trunk = folded(trunk)
        features_NC = torch.cat([features(trunk, part) for part in parts])
        found.append(out_of_fold(features_NC, labels_N, len(run.classes)))
    mean_NK: NDArray[np.float32] = np.mean(found, axis=0)
    return mean_NK


def out_of_fold(
    features_NC: Tensor, labels_N: NDArray[np.int64], classes: int, seed: int = 0
) -> NDArray[np.float32]:
    """probs_NK of penalised regressions, each asked about the fold that it was not fitted to."""
    folds_N = torch.from_numpy(stratified_folds(labels_N, seed))
    targets_N = torch.from_numpy(labels_N)
    probs_NK = torch.zeros(len(labels_N), classes)
    for fold in range(FOLDS):
        asked_N = folds_N == fold
        head = nn.Linear(features_NC.shape[1], classes)
        fit_head(head, features_NC[~asked_N], targets_N[~asked_N], l2=L2)
        with torch.inference_mode():
            probs_NK[asked_N] = head(features_NC[asked_N]).softmax(dim=1)
    answers_NK: NDArray[np.float32] = probs_NK.numpy()
    return answers_NK


def stratified_folds(labels_N: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The fold of each image; of each class every fold has as many, or one more."""
    folds_N = np.empty(len(labels_N), dtype=np.int64)
    for label in np.unique(labels_N):
        members = np.flatnonzero(labels_N == label)
        order = np.random.default_rng([seed, int(label)]).permutation(len(members))
        # Classes begin with folds of their own, so that small ones do not all miss the same.
        folds_N[members[order]] = (np.arange(len(members)) + int(label)) % FOLDS
    return folds_N


def _networks(run_dir: Path, run: RunManifest) -> Iterator[tuple[str, Classifier]]:
    """The last weights of each cycle, and those that fine-tuning began with, if they are there."""
    if run.training.pretrained and run.config is not None:
        try:
            start = run_config(run_dir).pretrained
            network = build_model(run.training.model, len(run.classes), run.image, start)
            divided(network, HEAD)  # or its last layers would answer, which are random
            yield "the pretrained weights", network.eval()
        except InvalidConfig as error:
            say(f"the weights that the run began with are not asked: {error}")
    for snapshot in run.snapshots:
        yield snapshot.name, load_model(run_dir, run, snapshot)
