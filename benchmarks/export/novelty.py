"""Which score tells pictures of other things from those that taught?

    python -m benchmarks.export.novelty BUNDLE_DIR --other NAME=DIR [--other NAME=DIR ...]

Every score is made of what the first member says of an image, or of the features that its last
layer reads, and is fitted on training images alone. The figure is the area under the ROC curve of
the test images, or some of them, against all pictures below a directory that can be read. The
bundle must be of a network that gives feature maps, and its data where the run found it.

Shapes: N images, C features, K classes.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

from benchmarks.machine import save
from snapensemble.contracts.bundle import BundleManifest, Member, Trunk, read_bundle
from snapensemble.contracts.errors import InvalidImage
from snapensemble.contracts.files import read_verified
from snapensemble.contracts.metrics import Floats, Labels, auroc, entropy, softmax
from snapensemble.contracts.novelty import directions, distances
from snapensemble.contracts.pictures.walk import Walk
from snapensemble.export.novelty import means_of_maps
from snapensemble.export.parity import Chain
from snapensemble.trainer.data.reread import reread

NEAREST = 10
Score = Callable[["Seen"], Floats]  # scores_N, larger where a picture is stranger


class Seen(NamedTuple):
    """What the first member makes of some images."""

    logits_NK: Floats
    features_NC: Floats


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle_dir", type=Path)
    parser.add_argument("--other", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--images", type=int, default=1_000, help="at most, of each kind (1000)")
    parser.add_argument("--name", default="novelty", help="of the result files (novelty)")
    args = parser.parse_args()
    bundle = read_bundle(args.bundle_dir)
    files = [read_verified(args.bundle_dir, part.file, part.sha256) for part in first_parts(bundle)]
    train, test = (
        reread(bundle.data, bundle.classes, bundle.image, split=part) for part in ("train", "test")
    )
    some = np.sort(np.random.default_rng(0).permutation(len(train))[: args.images])
    taught = seen(files, train.images_NCHW[some])
    known = seen(files, test.images_NCHW[: args.images])
    scores = fitted(taught, train.labels_N[some], len(bundle.classes))
    found: dict[str, dict[str, float]] = {name: {} for name in scores}
    counts = {"test": len(known.logits_NK)}
    for name, _, directory in (each.partition("=") for each in args.other):
        others = seen(files, pictures(bundle, Path(directory), args.images))
        counts[name] = len(others.logits_NK)
        for score, of in scores.items():
            found[score][name] = auroc(of(known), of(others))
    rows = [("score", *(f"{name}, {counts[name]:,} pictures" for name in list(counts)[1:]))]
    rows += [(score, *(f"{value:.3f}" for value in by.values())) for score, by in found.items()]
    save(args.name, {"model": bundle.model, "images": counts, "auroc": found}, rows)


def first_parts(bundle: BundleManifest) -> list[Trunk | Member]:
    """The files that an answer of the first member takes."""
    return [each for each in (bundle.trunk, bundle.members[0]) if each is not None]


def seen(files: list[bytes], images_NCHW: NDArray[np.uint8]) -> Seen:
    """What the first member makes of images."""
    chain = Chain(*files)
    logits = [chain(images_NCHW[at : at + 32]) for at in range(0, len(images_NCHW), 32)]
    return Seen(np.concatenate(logits).astype(np.float64), means_of_maps(files, images_NCHW))


def pictures(bundle: BundleManifest, directory: Path, most: int) -> NDArray[np.uint8]:
    """The pictures below a directory that can be read, evenly spread, as the members take them."""
    files = Walk().pictures(directory)
    found = []
    for file in files[:: -(-len(files) // most)]:
        try:
            found.append(bundle.image.decode(file.read_bytes()))
        except InvalidImage:
            continue
    return np.stack(found)


def fitted(taught: Seen, labels_N: Labels, classes: int) -> dict[str, Score]:
    """All scores, by name."""
    directions_KC = directions(taught.features_NC, labels_N, classes)
    logits = mahalanobis(taught.logits_NK, labels_N)
    plain = mahalanobis(taught.features_NC, labels_N)
    unit = mahalanobis(lengthless(taught.features_NC), labels_N)
    taught_NC = lengthless(taught.features_NC)
    return {
        "largest probability": lambda of: -softmax(of.logits_NK).max(axis=1),
        "entropy": lambda of: entropy(softmax(of.logits_NK)),
        "energy of the logits": lambda of: -np.logaddexp.reduce(of.logits_NK, axis=1),
        "Mahalanobis distance of the logits": lambda of: logits(of.logits_NK),
        "the same of the features": lambda of: plain(of.features_NC),
        "the same of features of length 1": lambda of: unit(lengthless(of.features_NC)),
        "tenth nearest training image": lambda of: (
            -np.sort(lengthless(of.features_NC) @ taught_NC.T, axis=1)[:, -NEAREST]
        ),
        "nearest mean direction": lambda of: distances(of.features_NC, directions_KC),
    }


def mahalanobis(vectors_NC: Floats, labels_N: Labels) -> Callable[[Floats], Floats]:
    """The distance from the nearest class (Lee et al. 2018), with a shrunken shared covariance."""
    means = {label: vectors_NC[labels_N == label].mean(axis=0) for label in np.unique(labels_N)}
    rest_NC = vectors_NC - np.stack([means[label] for label in labels_N])
    precision_CC = np.linalg.inv(ledoit_wolf(rest_NC)[0])

    def distance(others_NC: Floats) -> Floats:
        apart = [others_NC - mean_C for mean_C in means.values()]
        return np.asarray(np.min([((each @ precision_CC) * each).sum(axis=1) for each in apart], 0))

    return distance


def lengthless(vectors_NC: Floats) -> Floats:
    """The vectors with length 1."""
    return np.asarray(vectors_NC / np.linalg.norm(vectors_NC, axis=1, keepdims=True))


if __name__ == "__main__":
    main()
