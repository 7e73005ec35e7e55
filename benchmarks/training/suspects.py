"""How many of the labels that `snapensemble suspects` lists first are wrong, where that is known.

    python -m benchmarks.training.suspects --flowers DIR --cifar10 DIR --work DIR --cleanlab PYTHON

A twentieth of the labels of training and validation are replaced by another class, drawn by seed.
Runs are trained on these labels: EfficientNet-Lite0 with its ImageNet weights on the flowers,
ResNet-20 with random ones on images of CIFAR-10. Then each way puts the labels into an order, and
of its first twentieth counts how many had been replaced. Labels that were wrong before count as
false alarms. cleanlab gets the probabilities that we rank by.

A row is written as soon as it is known, and rows that are there are not computed again.

Shapes: N images, K classes.
"""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import RESULTS, save
from benchmarks.training.budgets import ROWS, begin, rows_of
from benchmarks.training.snapshots import save_parts
from snapensemble.contracts.metrics import softmax
from snapensemble.contracts.run import read_run
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.data.dataset import Dataset, load_dataset
from snapensemble.trainer.data.readers import Split
from snapensemble.trainer.data.reread import reread_dataset
from snapensemble.trainer.recording.snapshots import load_model
from snapensemble.trainer.run import train
from snapensemble.trainer.suspects.evidence import probabilities
from snapensemble.trainer.suspects.labels import doubts
from snapensemble.trainer.validation import predict_logits

SHARE = 0.05  # of the labels are made wrong, and as many are looked at
OURS = "out of fold (suspects)"
LAST, MEAN = "last snapshot's own", "mean of the snapshots' own"
SETTINGS: dict[str, dict[str, Any]] = {
    "flowers": {"model": "efficientnet-lite0", "cycles": 3, "cycle_epochs": 4, "views": 2},
    "cifar10": {"model": "resnet20", "cycles": 3, "cycle_epochs": 8},
}


def main() -> None:
    """Train and rank what is missing, print all rows, and save them."""
    args = _arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    begin(args.work, RESULTS / f"{args.name}.json")
    for data in SETTINGS:
        if getattr(args, data) is not None:
            for seed in range(args.seeds):
                known = {(row["data"], row["seed"]) for row in rows_of(args.work)}
                if (data, seed) not in known:
                    with (args.work / ROWS).open("a") as file:
                        for row in measured(args, data, seed):
                            file.write(json.dumps({"data": data, "seed": seed, **row}) + "\n")
    rows = rows_of(args.work)
    save(args.name, {"rows": rows}, table(rows))


def measured(args: argparse.Namespace, data: str, seed: int) -> list[dict[str, Any]]:
    """A row for each way to order the labels of one data set with one seed."""
    torch.set_num_threads(args.threads)
    spec, truth = with_wrong_labels(args, data, seed)
    run_dir = args.work / f"run-{data}-{seed}"
    if not (run_dir / "run.json").exists() or not read_run(run_dir).complete:
        settings = {**SETTINGS[data], "threads": args.threads, "seed": seed}
        train(TrainConfig(data=spec, out=run_dir, **settings))
    run = read_run(run_dir)
    dataset = reread_dataset(run.data, run.classes, run.image)
    labels_N = np.concatenate([dataset.train.labels_N, dataset.val.labels_N])
    names = [*(dataset.train.names or ()), *(dataset.val.names or ())]
    wrong_N = labels_N != np.array([truth[name] for name in names])
    own_SNK = own_probabilities(run_dir, dataset)
    probs_NK = probabilities(run_dir, run, dataset)
    orders = {
        LAST: np.argsort(-doubts(own_SNK[-1], labels_N), kind="stable"),
        MEAN: np.argsort(-doubts(own_SNK.mean(axis=0), labels_N), kind="stable"),
        OURS: np.argsort(-doubts(probs_NK, labels_N), kind="stable"),
    }
    if args.cleanlab:
        answers = args.work / f"answers-{data}-{seed}.npz"
        np.savez(answers, probs=probs_NK, labels=labels_N)
        orders |= {
            f"out of fold, cleanlab's {name}": order
            for name, order in cleanlab_orders(args.cleanlab, answers).items()
        }
    return [{"way": way, **figures(order, wrong_N)} for way, order in orders.items()]


def with_wrong_labels(args: argparse.Namespace, data: str, seed: int) -> tuple[str, dict[str, int]]:
    """The SPEC of a copy with wrong labels, and the true class by the name of each image."""
    file = args.work / f"{data}-{seed}.npz"
    size = args.size if data == "flowers" else None
    spec = str(args.flowers) if data == "flowers" else f"cifar10:{args.cifar10}"
    original = load_dataset(spec, val_fraction=0.2, split_seed=0, image_size=size)
    rng = np.random.default_rng([seed, len(data)])
    parts, truth = {}, {}
    for name, part in (("train", original.train), ("val", original.val)):
        count = (
            len(part) if args.images is None else round(args.images * len(part) / _all(original))
        )
        chosen = np.sort(rng.permutation(len(part))[:count])
        images_NCHW, true_N = part.images_NCHW[chosen], part.labels_N[chosen]
        given_N = true_N.copy()
        wrong = rng.permutation(len(true_N))[: round(SHARE * len(true_N))]
        classes = len(original.classes)
        given_N[wrong] = (true_N[wrong] + rng.integers(1, classes, len(wrong))) % classes
        parts[name] = Split(images_NCHW, given_N)
        truth |= {f"{name}[{place}]": int(label) for place, label in enumerate(true_N)}
    save_parts(file, original.classes, **parts)
    return f"npz:{file}", truth


def own_probabilities(run_dir: Path, dataset: Dataset) -> NDArray[np.float64]:
    """probs_SNK of the snapshots themselves, which were trained on most of these images."""
    run = read_run(run_dir)
    images_NCHW = np.concatenate([dataset.train.images_NCHW, dataset.val.images_NCHW])
    pixels = torch.from_numpy(images_NCHW)
    return np.stack(
        [
            softmax(predict_logits(load_model(run_dir, run, snapshot), pixels))
            for snapshot in run.snapshots
        ]
    )


def cleanlab_orders(python: str, answers: Path) -> dict[str, NDArray[np.int64]]:
    """The orders of cleanlab for the same probabilities, computed in an environment of its own."""
    orders = answers.with_name(f"orders-{answers.name}")
    program = Path(__file__).parents[1] / "peers" / "cleanlab_ranking.py"
    subprocess.run([python, str(program), str(answers), str(orders)], check=True)
    with np.load(orders) as found:
        return dict(found)


def figures(order: NDArray[np.int64], wrong_N: NDArray[np.bool_]) -> dict[str, Any]:
    """Precision and recall of the first twentieth, and precision of its first quarter.

    An order that names fewer has no more false alarms: its precision is that of what it names.
    """
    count = round(SHARE * len(wrong_N))
    first, quarter = wrong_N[order[:count]], wrong_N[order[: count // 4]]
    return {
        "labels": len(wrong_N),
        "wrong": int(wrong_N.sum()),
        "listed": len(first),
        "precision": float(first.mean()),
        "recall": float(first.sum() / wrong_N.sum()),
        "precision_of_first_quarter": float(quarter.mean()),
    }


def table(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A line per data set and way: means over seeds, the least and the most."""
    lines: list[tuple[str, ...]] = [
        ("data", "way", "seeds", "listed", "precision", "recall", "precision of the first quarter")
    ]
    for data, way in dict.fromkeys((row["data"], row["way"]) for row in rows):
        same = [row for row in rows if (row["data"], row["way"]) == (data, way)]
        listed = f"{np.mean([row['listed'] for row in same]):.0f}"
        columns = ("precision", "recall", "precision_of_first_quarter")
        shown = [_mean(same, column) for column in columns]
        lines.append((data, way, f"{len(same)}", listed, *shown))
    return lines


def _mean(rows: list[dict[str, Any]], figure: str) -> str:
    values = [row[figure] for row in rows]
    return f"{np.mean(values):.1%} ({min(values):.1%} to {max(values):.1%})"


def _all(dataset: Dataset) -> int:
    return len(dataset.train) + len(dataset.val)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flowers", type=Path, metavar="DIR", help="an image folder")
    parser.add_argument("--cifar10", type=Path, metavar="DIR")
    parser.add_argument("--images", type=int, metavar="N", help="of each data set (all)")
    parser.add_argument("--size", type=int, default=64, help="of the flowers, pixels a side")
    parser.add_argument("--cleanlab", metavar="PYTHON", help="an interpreter that has cleanlab")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, required=True, help="keeps the runs and the rows")
    parser.add_argument("--name", default="suspects", help="of the result files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
