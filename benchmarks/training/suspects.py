"""How many of the labels that `snapensemble suspects` lists first are wrong, where that is known.

    python -m benchmarks.training.suspects --flowers DIR --cifar10 DIR --work DIR --cleanlab PYTHON

A twentieth of the labels are replaced by another class, drawn by seed. Runs are trained on these
labels: EfficientNet-Lite0 with its ImageNet weights on the flowers at 96 pixels, ResNet-20 with
random ones on images of CIFAR-10. Then each way puts the labels of training and validation into an
order, and of its first twentieth is counted how many had been replaced. Labels that were wrong
before count as false alarms. cleanlab gets the probabilities that we rank by.

A row is written as soon as it is known, and rows that are there are not computed again.

Shapes: N images, K classes.
"""

import argparse
import contextlib
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
from snapensemble.trainer.data.cifar import cifar10
from snapensemble.trainer.data.dataset import Dataset
from snapensemble.trainer.data.readers import Split
from snapensemble.trainer.data.reread import reread_dataset
from snapensemble.trainer.recording.snapshots import load_model
from snapensemble.trainer.run import train
from snapensemble.trainer.suspects.labels import probabilities, suspect_labels
from snapensemble.trainer.validation import predict_logits

SHARE = 0.05  # of the labels are made wrong, and as many are looked at
OURS = "out of fold (suspects)"
LAST, MEAN = "last snapshot's own", "mean of the snapshots' own"
SETTINGS: dict[str, dict[str, Any]] = {
    "flowers": {
        "model": "efficientnet-lite0",
        "image_size": 96,
        "views": 2,
        "cycles": 3,
        "cycle_epochs": 6,
    },
    "cifar10": {"model": "resnet20", "cycles": 3, "cycle_epochs": 8},
}


def main() -> None:
    """Train and rank what is missing, print all rows, and save them."""
    args = _arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    begin(args.work, RESULTS / f"{args.name}.json")
    for data in SETTINGS:
        if getattr(args, data) is not None:
            for seed in args.seeds:
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
    spec, truth = (flowers if data == "flowers" else cifar)(args, seed)
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
        way: suspect_labels(answers_NK, labels_N, len(labels_N)).images_S
        for way, answers_NK in (
            (LAST, own_SNK[-1]),
            (MEAN, own_SNK.mean(axis=0)),
            (OURS, probs_NK),
        )
    }
    if args.cleanlab:
        answers = args.work / f"answers-{data}-{seed}.npz"
        np.savez(answers, probs=probs_NK, labels=labels_N)
        orders |= {
            f"out of fold, cleanlab's {name}": order
            for name, order in cleanlab_orders(args.cleanlab, answers).items()
        }
    return [{"way": way, **figures(order, wrong_N)} for way, order in orders.items()]


def flowers(args: argparse.Namespace, seed: int) -> tuple[str, dict[str, int]]:
    """A folder of links to the pictures, some in another class; the true class by their path."""
    folder = args.work / f"flowers-{seed}"
    classes = sorted(directory.name for directory in (args.flowers / "train").iterdir())
    files = [
        (file, label)
        for part in ("train", "val")
        for label, name in enumerate(classes)
        for file in sorted((args.flowers / part / name).iterdir())
    ]
    true_N = np.array([label for _, label in files])
    given_N = made_wrong(true_N, len(classes), np.random.default_rng([seed, 5]))
    truth = {}
    for (file, label), given in zip(files, given_N.tolist(), strict=True):
        path = f"{classes[given]}/{classes[label]}-{file.name}"
        truth[path] = label
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (folder / path).symlink_to(file.resolve())
    return str(folder), truth


def cifar(args: argparse.Namespace, seed: int) -> tuple[str, dict[str, int]]:
    """Some images of CIFAR-10 as an .npz file; the true class by their name."""
    everything = cifar10(args.cifar10)
    assert everything.train is not None
    rng = np.random.default_rng([seed, args.images])
    chosen = rng.permutation(len(everything.train))[: args.images]
    true_N = everything.train.labels_N[chosen]
    given_N = made_wrong(true_N, len(everything.classes), rng)
    file = args.work / f"cifar10-{seed}.npz"
    train_part = Split(everything.train.images_NCHW[chosen], given_N)
    save_parts(file, everything.classes, train=train_part)
    return f"npz:{file}", {f"train[{place}]": label for place, label in enumerate(true_N.tolist())}


def made_wrong(
    true_N: NDArray[np.int64], classes: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The labels, a twentieth of them replaced by any other class."""
    wrong = rng.choice(len(true_N), round(SHARE * len(true_N)), replace=False)
    given_N = true_N.copy()
    given_N[wrong] = (true_N[wrong] + rng.integers(1, classes, len(wrong))) % classes
    return given_N


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
    """A line per data set and way: means over seeds, with the least and the most."""
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
    reach = f" ({min(values):.1%} to {max(values):.1%})" if len(values) > 1 else ""
    return f"{np.mean(values):.1%}{reach}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flowers", type=Path, metavar="DIR", help="with train/ and val/")
    parser.add_argument("--cifar10", type=Path, metavar="DIR")
    parser.add_argument("--images", type=int, default=4_000, metavar="N", help="of CIFAR-10")
    parser.add_argument("--cleanlab", metavar="PYTHON", help="an interpreter that has cleanlab")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="flowers 0 was for choosing"
    )
    parser.add_argument("--work", type=Path, required=True, help="keeps the runs and the rows")
    parser.add_argument("--name", default="suspects", help="of the result files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
