"""`snapensemble evaluate`: a bundle on a data set, through the engine that serves it.

Shapes: M members, d members asked, N images, K classes.
"""

import argparse
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np

from contracts.bundle import BundleManifest
from contracts.errors import InvalidConfig
from contracts.figures import Floats, Labels, summary
from contracts.prediction_sets import SetQuantile, covered_and_sizes
from contracts.text import printable_lines
from serving.engine import load_engine
from serving.stages import Mode
from serving.summary import averaged
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
    parser.add_argument(
        "--mode",
        choices=get_args(Mode),
        default="full",
        help="ask every member, or as many as an image needs (full)",
    )
    parser.add_argument(
        "--max-accuracy-drop",
        type=float,
        metavar="DROP",
        help="accuracy that the cascade may cost, fraction; the bundle's choice if not given",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print each member's figures and those of the averaged probabilities."""
    figures = evaluate(
        args.bundle_dir,
        spec=args.data,
        split=args.split,
        limit=args.limit,
        mode=args.mode,
        max_accuracy_drop=args.max_accuracy_drop,
    )
    print(json.dumps(figures, indent=2) if args.json else printable_lines(table(figures)))
    return 0


def evaluate(
    bundle_dir: Path,
    *,
    spec: str | None = None,
    split: str = "test",
    limit: int | None = None,
    mode: Mode = "full",
    max_accuracy_drop: float | None = None,
) -> dict[str, Any]:
    """Measure what is served: same members, weights, temperature, and the same engine.

    Members are always asked about every image, so that their figures can be compared.

    Returns:
        `ensemble`, the answers of `mode`, and `members` with the figures of
        `contracts.figures.summary`; `images` counts them. `prediction_sets` if the bundle has any.

    Raises:
        InvalidParameter: the bundle carries no cascade.
        InvalidData: the data set cannot be read, has no such split, or other classes or shapes.
        InvalidManifest: the bundle is damaged.
    """
    if limit is not None and limit < 1:
        raise InvalidConfig(f"--limit must be at least 1, got {limit}")
    if max_accuracy_drop is not None and not 0 <= max_accuracy_drop <= 1:
        raise InvalidConfig(
            f"--max-accuracy-drop must be a fraction from 0 to 1, got {max_accuracy_drop}"
        )
    with load_engine(bundle_dir, max_accuracy_drop=max_accuracy_drop) as engine:
        engine.check_mode(mode)
        bundle = engine.bundle
        part = sample(bundle_data(bundle, spec, split), limit)
        images_NCHW, labels_N = part.images_NCHW, part.labels_N
        probs_MNK = engine.predict(images_NCHW)
        probs_NdK = (
            engine.ask(images_NCHW, mode) if mode == "cascade" else list(probs_MNK.swapaxes(0, 1))
        )
    probs_NK = np.stack([averaged(probs_dK, bundle) for probs_dK in probs_NdK])
    members_used = float(np.mean([len(probs_dK) for probs_dK in probs_NdK]))
    sets = [measured_set(probs_NK, labels_N, quantile) for quantile in engine.sets(mode)]
    return {
        "ensemble": {**summary(probs_NK, labels_N), "members_used": members_used},
        "members": [
            {"name": member.name, **summary(probs, labels_N)}
            for member, probs in zip(bundle.members, probs_MNK, strict=True)
        ],
        **({"prediction_sets": sets} if sets else {}),
        "images": len(labels_N),
        "mode": mode,
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


def measured_set(probs_NK: Floats, labels_N: Labels, quantile: SetQuantile) -> dict[str, Any]:
    """How often a prediction set holds the right class, and how many classes it names."""
    covered_N, size_N = covered_and_sizes(probs_NK, labels_N, quantile)
    return {
        "method": quantile.method,
        "coverage": quantile.coverage,
        "covered": float(covered_N.mean()),
        "mean_size": float(size_N.mean()),
    }


def table(figures: dict[str, Any]) -> str:
    """The figures as aligned columns."""
    rows = [*figures["members"], {"name": "ensemble", **figures["ensemble"]}]
    lines = [f"{figures['images']:,} images of the {figures['split']} split of {figures['data']}"]
    lines.append("".join([f"{'':<12}", *(f"{column:>10}" for column in COLUMNS)]))
    for row in rows:
        values = [f"{row['accuracy']:>10.2%}", *(f"{row[c]:>10.4f}" for c in COLUMNS[1:])]
        lines.append("".join([f"{row['name']:<12}", *values]))
    if figures["mode"] == "cascade":
        lines.append(
            f"cascade: {figures['ensemble']['members_used']:.2f} of {len(figures['members'])} "
            "members per image"
        )
    lines += [
        f"sets of {s['coverage']:.0%} ({s['method'].replace('_', ' ')}): hold the right class for "
        f"{s['covered']:.1%}, {s['mean_size']:.2f} classes on average"
        for s in figures.get("prediction_sets", ())
    ]
    return "\n".join(lines)
