"""Which schedule gives the best answers for the same network, data and number of epochs?

    python -m benchmarks.training.schedules --data fashion-mnist:DIR --train-images 2000

Every schedule trains the same network on the same images, with the same seeds and the same
budget, and takes as many snapshots: at the ends of its cycles, or equally spaced (the NoCycle
baseline of Huang et al. 2017, section 4.1, is `step, all`). Validation images choose (the
plateau's falls, best m, what `export` takes by default) and give each row a temperature; test
images report. The same is computed from the snapshots of every schedule. `EMA` is the moving
average of the weights since the snapshot before the last. Runs that are there already are not
trained again, and a run that was stopped goes on, so the benchmark itself can be stopped.

Shapes: S snapshots, N images.
"""

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import save
from benchmarks.training.budgets import figures_of, places_of, selected, shown
from benchmarks.training.snapshots import save_parts, shrunk, trained
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.metrics import nll, rank
from snapensemble.export.candidates import Pool, pooled
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.data.dataset import load_dataset, stratified
from snapensemble.trainer.data.readers import Split

SCHEDULES = ("step", "plateau", "cosine", "hypergradient", "constant", "sgdr")
FIGURES = ("error", "nll", "ece")
BASELINE = "cosine, EMA"
MAY_CHANGE = ("data", "members", "seeds", "schedules", "processes", "work", "name")


def main() -> None:
    """Train what is missing, measure, print and save."""
    args = _arguments()
    work = args.work or Path(tempfile.mkdtemp(prefix="snapensemble-bench-"))
    work.mkdir(parents=True, exist_ok=True)
    data = work / "data.npz"
    kept = {name: value for name, value in vars(args).items() if name not in MAY_CHANGE}
    note = work / "settings.json"
    if not note.exists():
        write_subset(args, data)
        note.write_text(json.dumps(kept))
    if json.loads(note.read_text()) != kept:
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
    smaller = {
        name: Split(shrunk(part.images_NCHW, args.shrink), part.labels_N)
        for name, part in parts.items()
    }
    save_parts(file, dataset.classes, **smaller)


def fewer(part: Split, images: int | None) -> Split:
    """About so many images, the same share of each class."""
    if images is None:
        return part
    return part.only(stratified(part.labels_N, images / len(part), 0))


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
    run_dir = trained(config)
    dataset = load_dataset(config.data, val_fraction=0.1, split_seed=0)
    assert dataset.test is not None
    pool = pooled([run_dir])
    found = figures_of(pool, dataset.test, ways(pool, args.members))
    return {f"{schedule}, {way}": figures for way, figures in found.items()}


def ways(pool: Pool, m: int) -> dict[str, list[int]]:
    """What is averaged, as places among the candidates; validation's NLL ranks and chooses."""
    last = places_of(pool, "last")
    best = [
        last[place] for place in rank([pool.candidates[each].snapshot.val.nll for each in last])
    ]
    sizes = range(1, len(best) + 1)
    nlls = [nll(pool.probs_SNK[best[:size]].mean(axis=0), pool.labels_N) for size in sizes]
    return {
        "last snapshot": last[-1:],
        "EMA": places_of(pool, "ema")[-1:],
        "best snapshot": best[:1],
        f"last {m}": last[-m:],
        f"best {m}": best[:m],
        "best m, m by validation": best[: int(np.argmin(nlls)) + 1],
        "all": last,
        "what export takes by default": list(selected(pool).indices),
    }


def table(rows: dict[str, list[dict[str, Any]]]) -> list[tuple[str, ...]]:
    """A row per schedule and way of averaging: means and spreads over the seeds.

    The last column has the difference of the NLL from that of `BASELINE`, seed by seed.
    """
    lines: list[tuple[str, ...]] = [
        ("schedule, weights", "test error", "NLL", "ECE", f"NLL against {BASELINE}")
    ]
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
        if BASELINE in rows:
            pairs = zip(seeds, rows[BASELINE], strict=True)
            ratios = np.array([ours["nll"] / theirs["nll"] for ours, theirs in pairs])
            cells.append(shown(ratios - 1, ".1%"))
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
