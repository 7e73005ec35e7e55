"""What `--class-balance` and `--class-prior` give where classes have 20 times the pictures of some.

    python -m benchmarks.training.class_balance --folder DIR --work DIR

Every other class of the folder keeps 80 pictures, the others 4, and a quarter of each validates: 60
and 3 teach. The seed draws which pictures these are, and even and odd seeds exchange the classes.
EfficientNet-Lite0 with its ImageNet weights is fine-tuned as `train` does it by default. What is in
the folder's val/ is the test part, whose classes have about as many pictures each. All have a
temperature from validation. `none, --class-prior uniform` is the run without balance, exported with
this option and answered by ONNX Runtime.

A row is written as soon as it is known, and rows that are there are not computed again.

Shapes: N images, K classes.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import RESULTS, save
from benchmarks.rows import add_sitting
from benchmarks.training.budgets import ROWS, begin, rows_of, shown
from benchmarks.training.snapshots import test_probabilities, trained
from snapensemble.contracts.metrics import Floats, nll, softmax, tempered
from snapensemble.contracts.run import Balance, RunManifest, read_run, read_validation
from snapensemble.export.bundle import build_bundle
from snapensemble.export.config import ExportConfig
from snapensemble.export.parity import run_file
from snapensemble.export.temperature import fit_temperature
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.data.dataset import load_dataset
from snapensemble.trainer.data.readers import Split

MODEL = "efficientnet-lite0"
COMMON, RARE = 80, 4  # pictures, before a quarter of them validates
VAL_FRACTION = 0.25
BALANCES: tuple[Balance, ...] = ("none", "sqrt", "inverse")
UNIFORM = "none, --class-prior uniform"
FIGURES = ("macro accuracy", "accuracy of common classes", "of rare ones", "macro NLL")


def main() -> None:
    """Train and measure what is missing, print all rows, and save them."""
    args = _arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    begin(args.work, RESULTS / f"{args.name}.json")
    for seed in range(args.seeds):
        for balance in BALANCES:
            known = {(row["way"], row["seed"]) for row in rows_of(args.work)}
            if (balance, seed) not in known:
                one_run(args, balance, seed)
    rows = rows_of(args.work)
    save(args.name, {"rows": rows}, table(rows))


def one_run(args: argparse.Namespace, balance: Balance, seed: int) -> None:
    """Train with one balance and one seed, and write what it gives."""
    config = TrainConfig(
        data=str(thinned(args.work / f"data-{seed}", args.folder, seed, tested=args.tested)),
        out=args.work / f"{balance}-{seed}",
        model=MODEL,
        val_fraction=VAL_FRACTION,
        epochs=args.epochs,
        threads=args.threads,
        seed=seed,
        class_balance=balance,
    )
    run_dir = trained(config)
    run = read_run(run_dir)
    test = load_dataset(
        config.data, val_fraction=VAL_FRACTION, split_seed=0, image_size=run.image.height
    ).part("test")
    for way, found_NK in ways(run_dir, run, balance, test).items():
        line = {
            "way": way,
            "seed": seed,
            **measured(found_NK, test.labels_N, run.data.class_counts),
        }
        with (args.work / ROWS).open("a") as file:
            file.write(json.dumps(line) + "\n")


def thinned(
    directory: Path,
    folder: Path,
    seed: int,
    pictures: tuple[int, int] = (COMMON, RARE),
    tested: int | None = None,
) -> Path:
    """train/ and test/ as links to some of the folder's pictures in train/ and val/.

    Args:
        directory: where the links are.
        folder: has the pictures.
        seed: draws which teach and validate.
        pictures: of every other class, and of the ones between.
        tested: pictures of each class that test; None for all.
    """
    for index, kind in enumerate(sorted((folder / "train").iterdir())):
        files = sorted(kind.iterdir())
        np.random.default_rng([seed, index]).shuffle(files)
        test = sorted((folder / "val" / kind.name).iterdir())
        for part, some in (
            ("train", files[: pictures[(index + seed) % 2]]),
            ("test", test[:tested]),
        ):
            place = directory / part / kind.name
            place.mkdir(parents=True, exist_ok=True)
            for file in some:
                link = place / file.name
                if not link.exists():
                    link.symlink_to(file.resolve())
    return directory


def ways(run_dir: Path, run: RunManifest, balance: str, test: Split) -> dict[str, Floats]:
    """The test probabilities of a run, and of what is made of it, with temperatures."""
    logits_SNK, labels_N = read_validation(run_dir, run)
    temperature = fit_temperature(softmax(logits_SNK[len(run.snapshots) - 1]), labels_N)
    found = {balance: tempered(test_probabilities(run_dir, test)[-1], temperature)}
    if balance == "none":
        found[UNIFORM] = exported(run_dir, test)
    return found


def exported(run_dir: Path, test: Split) -> Floats:
    """The test probabilities of the last snapshot as a bundle for equally frequent classes."""
    config = ExportConfig(select="last", members=1, class_prior="uniform", report=False)
    bundle_dir = run_dir.with_name(f"{run_dir.name}-uniform")
    bundle = build_bundle(run_dir, bundle_dir, config, force=True)
    file = (bundle_dir / bundle.members[0].file).read_bytes()
    return tempered(softmax(run_file(file, test.images_NCHW)), bundle.temperature)


def measured(
    probs_NK: Floats, labels_N: NDArray[np.int64], counts_K: Sequence[int]
) -> dict[str, Any]:
    """Accuracies per class, their means, and the mean of the classes' NLLs."""
    right_N = probs_NK.argmax(axis=1) == labels_N
    of_class = [labels_N == label for label in range(len(counts_K))]
    accuracies = np.array([right_N[mine_N].mean() for mine_N in of_class])
    is_rare_K = np.array(counts_K) < np.mean(counts_K)
    values = (
        accuracies.mean(),
        accuracies[~is_rare_K].mean(),
        accuracies[is_rare_K].mean(),
        np.mean([nll(probs_NK[mine_N], labels_N[mine_N]) for mine_N in of_class]),
    )
    return {
        "counts": list(counts_K),
        "class_accuracies": accuracies.tolist(),
        **{name: float(value) for name, value in zip(FIGURES, values, strict=True)},
    }


def table(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A line per way: means over seeds, and the paired difference of macro accuracy to none."""
    lines: list[tuple[str, ...]] = [("way", "seeds", *FIGURES, "macro accuracy - none, points")]
    base = {row["seed"]: row for row in rows if row["way"] == "none"}
    for way in dict.fromkeys(row["way"] for row in rows):
        same = [row for row in rows if row["way"] == way]
        means = [float(np.mean([row[figure] for row in same])) for figure in FIGURES]
        pairs = [row[FIGURES[0]] - base[row["seed"]][FIGURES[0]] for row in same if base]
        gained = "" if way == "none" else shown(100 * np.array(pairs), ".1f")
        lines.append(
            (way, f"{len(same)}", *(f"{mean:.1%}" for mean in means[:3]), f"{means[3]:.3f}", gained)
        )
    return lines


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, required=True, metavar="DIR", help="train/CLASS/* and val/CLASS/*"
    )
    parser.add_argument("--epochs", type=int, help="of each run; train's default if not given")
    parser.add_argument("--tested", type=int, help="test pictures of each class; all if not given")
    parser.add_argument("--threads", type=int, default=1)
    add_sitting(parser, "class-balance")
    return parser.parse_args()


if __name__ == "__main__":
    main()
