"""Which schedule gives the best answers for the same network, data and number of epochs?

    python -m benchmarks.training.schedules --data fashion-mnist:DIR --train-images 2000

Every schedule trains the same network on the same images, with the same seeds and the same
budget, and takes as many snapshots: at the ends of its cycles, or equally spaced (the NoCycle
baseline of Huang et al. 2017, section 4.1, is `step, all`). Validation images choose (the
plateau's falls, best m); test images report. The same is computed from the snapshots of every
schedule. Runs that are there already are not trained again, and a run that was stopped goes on,
so the benchmark itself can be stopped.

Shapes: S snapshots, N images, K classes.
"""

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import save
from benchmarks.training.snapshots import test_probabilities
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.metrics import nll, rank, softmax, summary
from snapensemble.contracts.run import RUN_FILE, read_run, read_validation
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.config_file import run_config, to_toml
from snapensemble.trainer.data.dataset import load_dataset, stratified
from snapensemble.trainer.data.readers import Split
from snapensemble.trainer.run import resume, train

SCHEDULES = ("step", "plateau", "cosine", "hypergradient", "constant", "sgdr")
FIGURES = ("error", "nll", "ece")


def main() -> None:
    """Train what is missing, measure, print and save."""
    args = _arguments()
    work = args.work or Path(tempfile.mkdtemp(prefix="snapensemble-bench-"))
    work.mkdir(parents=True, exist_ok=True)
    data = work / "data.npz"
    subset = {name: getattr(args, name) for name in ("train_images", "val_images", "shrink")}
    note = work / "data.json"
    if not note.exists():
        write_subset(args, data)
        note.write_text(json.dumps(subset))
    if json.loads(note.read_text()) != subset:
        raise InvalidConfig(f"{work} was begun with {note.read_text()}; choose another --work")
    jobs = [(name, seed) for seed in range(args.seeds) for name in args.schedules]
    with ProcessPoolExecutor(args.processes) as pool:
        one = partial(one_run, args, work)
        results = list(pool.map(one, *zip(*jobs, strict=True)))
    rows: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        for name, figures in result.items():
            rows.setdefault(name, []).append(figures)
    settings = {k: v for k, v in vars(args).items() if k not in ("data", "work", "name")}
    figures = {"data": args.data.partition(":")[0], "settings": settings, "rows": rows}
    save(args.name, figures, table(rows))


def write_subset(args: argparse.Namespace, file: Path) -> None:
    """The data set, with fewer images for training and validation, and smaller ones, if asked."""
    dataset = load_dataset(args.data, val_fraction=0.1, split_seed=0)
    assert dataset.test is not None
    parts = {
        "train": fewer(dataset.train, args.train_images),
        "val": fewer(dataset.val, args.val_images),
        "test": dataset.test,
    }
    arrays: dict[str, Any] = {f"y_{name}": part.labels_N for name, part in parts.items()}
    for name, part in parts.items():
        arrays[f"x_{name}"] = shrunk(part.images_NCHW, args.shrink)
    np.savez(file, classes=np.array(dataset.classes), **arrays)


def fewer(part: Split, images: int | None) -> Split:
    """About so many images, the same share of each class."""
    if images is None:
        return part
    return part.only(stratified(part.labels_N, images / len(part), 0))


def shrunk(images_NCHW: NDArray[np.uint8], by: int) -> NDArray[np.uint8]:
    """The mean of each square of `by` x `by` pixels."""
    N, C, H, W = images_NCHW.shape
    tiles = images_NCHW.reshape(N, C, H // by, by, W // by, by)
    shrunk_NCHW: NDArray[np.uint8] = np.rint(tiles.mean(axis=(3, 5))).astype(np.uint8)
    return shrunk_NCHW


def one_run(
    args: argparse.Namespace, work: Path, schedule: str, seed: int
) -> dict[str, dict[str, Any]]:
    """The test figures that one run leads to, by schedule and way of averaging."""
    config = TrainConfig(
        data=f"npz:{work / 'data.npz'}",
        out=work / f"{schedule}-{seed}",
        schedule=schedule,
        seed=seed,
        model=args.model,
        cycles=args.cycles,
        cycle_epochs=args.cycle_epochs,
        lr_max=args.lr_max,
        weight_decay=args.weight_decay,
        batch_size=args.batch_size,
        flip=args.flip,
        threads=1,
    )
    if not (config.out / RUN_FILE).exists():
        train(config)
    elif to_toml(run_config(config.out)) != to_toml(config):
        raise InvalidConfig(f"{config.out} holds a run with other settings; choose another --work")
    run_dir = resume(config.out)
    dataset = load_dataset(config.data, val_fraction=0.1, split_seed=0)
    assert dataset.test is not None
    labels_N = dataset.test.labels_N
    probs_SNK = test_probabilities(run_dir, dataset.test)
    best = rank([snapshot.val.nll for snapshot in read_run(run_dir).snapshots])
    chosen, m = best_size(run_dir, best), args.members
    ways = {
        "last snapshot": probs_SNK[-1:],
        "best snapshot": probs_SNK[best[:1]],
        f"last {m}": probs_SNK[-m:],
        f"best {m}": probs_SNK[best[:m]],
        "best m, m by validation": probs_SNK[best[:chosen]],
        "all": probs_SNK,
    }
    return {f"{schedule}, {way}": measured(probs, labels_N) for way, probs in ways.items()}


def best_size(run_dir: Path, best: list[int]) -> int:
    """How many of the best snapshots have the lowest validation NLL together."""
    run = read_run(run_dir)
    logits_SNK, labels_N = read_validation(run_dir, run)
    probs_SNK = softmax(logits_SNK[: len(run.snapshots)])
    nlls = [nll(probs_SNK[best[:m]].mean(axis=0), labels_N) for m in range(1, len(best) + 1)]
    return int(np.argmin(nlls)) + 1


def measured(probs_SNK: NDArray[np.float64], labels_N: NDArray[np.int64]) -> dict[str, float]:
    """Error, NLL and ECE of the averaged probabilities."""
    figures = summary(probs_SNK.mean(axis=0), labels_N)
    return {"error": 1 - figures["accuracy"], "nll": figures["nll"], "ece": figures["ece"]}


def table(rows: dict[str, list[dict[str, Any]]]) -> list[tuple[str, ...]]:
    """A row per schedule and way of averaging: mean and spread (least to most) over the seeds."""
    lines: list[tuple[str, ...]] = [("schedule, weights", "test error", "NLL", "ECE")]
    for name, seeds in rows.items():
        cells = []
        for figure in FIGURES:
            values = np.array([one[figure] for one in seeds])
            low, mid, high = values.min(), values.mean(), values.max()
            cells.append(
                f"{mid:.2%} ({low:.2%} to {high:.2%})"
                if figure == "error"
                else f"{mid:.4f} ({low:.4f} to {high:.4f})"
            )
        lines.append((name, *cells))
    return lines


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, metavar="SPEC")
    parser.add_argument("--train-images", type=int, help="fewer training images (all)")
    parser.add_argument("--val-images", type=int, help="fewer validation images (all)")
    parser.add_argument("--shrink", type=int, default=1, help="pixels that become one, a side")
    parser.add_argument("--model", default="small")
    parser.add_argument("--cycles", type=int, default=5)
    parser.add_argument("--cycle-epochs", type=int, default=12)
    parser.add_argument("--members", type=int, default=3, help="m of last-m and best-m")
    parser.add_argument("--lr-max", type=float, default=0.1)
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--flip", action=argparse.BooleanOptionalAction)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=list(SCHEDULES))
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, a thread each")
    parser.add_argument("--work", type=Path, help="keep the runs here, to go on later")
    parser.add_argument("--name", default="schedules", help="of the result files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
