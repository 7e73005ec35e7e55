"""`snapensemble evaluate`: a bundle on a data set, through the engine that serves it.

Shapes: M members, N images, K classes.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from contracts.bundle import BundleManifest
from contracts.errors import InvalidConfig
from contracts.figures import mean_probabilities, summary
from serving.engine import load_engine
from trainer.data import SPECS
from trainer.readers import Split
from trainer.reread import reread

COLUMNS = ("accuracy", "nll", "ece", "brier")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `snapensemble evaluate`."""
    parser.add_argument("bundle_dir", type=Path, metavar="BUNDLE_DIR")
    parser.add_argument(
        "--data", metavar="SPEC", help=f"{SPECS} (the one that the run was trained on)"
    )
    parser.add_argument("--split", choices=["test", "val", "train"], default="test")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="N images, evenly spread over the split"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print each member's figures and those of the averaged probabilities."""
    figures = evaluate(args.bundle_dir, spec=args.data, split=args.split, limit=args.limit)
    print(json.dumps(figures, indent=2) if args.json else table(figures))
    return 0


def evaluate(
    bundle_dir: Path, *, spec: str | None = None, split: str = "test", limit: int | None = None
) -> dict[str, Any]:
    """Measure what is served: same members, weights, temperature, and the same engine.

    Returns:
        `ensemble` and `members` with accuracy, nll, ece and brier; `images` counts them.

    Raises:
        InvalidData: the data set cannot be read, has no such split, or other classes or shapes.
        InvalidManifest: the bundle is damaged.
    """
    if limit is not None and limit < 1:
        raise InvalidConfig(f"--limit must be at least 1, got {limit}")
    with load_engine(bundle_dir) as engine:
        bundle = engine.bundle
        part = sample(bundle_data(bundle, spec, split), limit)
        images_NCHW, labels_N = part.images_NCHW, part.labels_N
        probs_MNK = engine.predict(images_NCHW)
    probs_NK = mean_probabilities(probs_MNK, bundle.weights_M, bundle.temperature)
    return {
        "ensemble": {**summary(probs_NK, labels_N), "members_used": len(bundle.members)},
        "members": [
            {"name": member.name, **summary(probs, labels_N)}
            for member, probs in zip(bundle.members, probs_MNK, strict=True)
        ],
        "images": len(labels_N),
        "split": split,
        "data": spec or bundle.data.spec,
        "model": {"name": bundle.name, "version": bundle.version},
    }


def bundle_data(bundle: BundleManifest, spec: str | None = None, split: str = "test") -> Split:
    """A part of the data set that a bundle was made from, or of another one; see `reread`."""
    return reread(bundle.data, bundle.classes, bundle.image, spec=spec, split=split)


def sample(part: Split, limit: int | None) -> Split:
    """At most `limit` images, evenly spread: a folder's come sorted by class."""
    count = min(len(part), limit or len(part))
    if count == len(part):
        return part
    chosen = np.arange(count) * len(part) // count
    return Split(part.images_NCHW[chosen], part.labels_N[chosen])


def table(figures: dict[str, Any]) -> str:
    """The figures as aligned columns."""
    rows = [*figures["members"], {"name": "ensemble", **figures["ensemble"]}]
    lines = [f"{figures['images']:,} images of the {figures['split']} split of {figures['data']}"]
    lines.append("".join([f"{'':<12}", *(f"{column:>10}" for column in COLUMNS)]))
    for row in rows:
        values = [f"{row['accuracy']:>10.2%}", *(f"{row[c]:>10.4f}" for c in COLUMNS[1:])]
        lines.append("".join([f"{row['name']:<12}", *values]))
    return "\n".join(lines)
