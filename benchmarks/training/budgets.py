"""Is what `train` and `export` give by default as good as one cosine run of the same budget?

    python -m benchmarks.training.budgets --fashion-mnist DIR --cifar10 DIR --flowers DIR --work DIR

Each data set is trained on subsets of several sizes, for several budgets of optimizer updates and
several seeds, each of which draws a subset of its own. `cosine` is the last weights of one cycle as
long as the budget, `cosine + EMA` the moving average of its weights, `default` what the plan of
`train` and the rule `auto` of `export` come to. All have a temperature from the selection half of
validation, and are measured on test images. Where the plan makes one cycle, the default is the same
run, and the price one network.

A row is written as soon as it is known, and rows that are there, in DIR or in the result file of an
earlier sitting, are not computed again: the benchmark can be stopped and goes on, in the middle of
a run too. Give it a budget more, and it trains what is missing.

Shapes: S snapshots, N images, K classes.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from benchmarks.machine import RESULTS, save
from benchmarks.rows import add_sitting, json_lines
from benchmarks.training.snapshots import save_parts, shrunk, test_probabilities, trained
from snapensemble.contracts.metrics import (
    Answers,
    Floats,
    Labels,
    mean_probabilities,
    summary,
    tempered,
)
from snapensemble.contracts.run import Weights, read_run
from snapensemble.export.calibration import split_validation
from snapensemble.export.candidates import Pool, pooled
from snapensemble.export.selection import Chosen, select
from snapensemble.export.temperature import fit_temperature
from snapensemble.trainer.build import default_batch_size
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.data.dataset import Dataset, load_dataset, stratified
from snapensemble.trainer.data.readers import Split

WAYS = ("cosine", "cosine + EMA", "default")
FIGURES = ("error", "nll", "ece")
VAL_FRACTION = 0.1
TEST_SHARE = 0.25  # of a data set that has no test part
ROWS = "rows.jsonl"


@dataclass(frozen=True, slots=True)
class Cell:
    """A data set of one size; `shrink` x `shrink` pixels become one."""

    data: str
    images: int | None  # for training and validation together; None: all
    model: str = "small"
    shrink: int = 1
    image_size: int | None = None

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"{self.data} {self.images:,}" if self.images else self.data


@dataclass(frozen=True, slots=True)
class Job:
    """What has one row: a cell, a number of updates and a seed."""

    cell: Cell
    updates: int
    seed: int

    @property
    def name(self) -> str:
        """A name for its files."""
        return f"{self.cell.name.replace(' ', '-').replace(',', '')}-{self.updates}-{self.seed}"


CELLS = (
    Cell("fashion-mnist", 500, shrink=2),
    Cell("fashion-mnist", 2_000, shrink=2),
    Cell("flowers", None, image_size=32),
    Cell("cifar10", 5_000, shrink=2),
    Cell("fashion-mnist", 10_000, shrink=2),
    Cell("cifar10", 20_000, shrink=2),
    Cell("digits", None, model="tiny"),  # what `snapensemble demo` trains
)


def main() -> None:
    """Train and measure what is missing, print all rows, and save them."""
    args = _arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    specs = {
        "fashion-mnist": args.fashion_mnist and f"fashion-mnist:{args.fashion_mnist}",
        "cifar10": args.cifar10 and f"cifar10:{args.cifar10}",
        "flowers": args.flowers,
        "digits": "digits" if args.digits else None,
    }
    jobs = [
        Job(cell, updates, seed)
        for updates in args.budgets
        for cell in CELLS
        for seed in range(args.seeds)
        if specs[cell.data]
    ]
    begin(args.work, RESULTS / f"{args.name}.json")
    known = {row["job"] for row in rows_of(args.work)}
    missing = [job for job in jobs if job.name not in known]
    with ProcessPoolExecutor(args.processes) as pool:
        list(pool.map(partial(one_row, args.work, specs), missing))
    rows = sorted(rows_of(args.work), key=lambda row: (row["cell"]["name"], row["budget"]))
    save(args.name, {"rows": rows, "over_all": over_all(rows)}, table(rows))


def begin(work: Path, results: Path) -> None:
    """Begin a work directory with the rows that are kept in the repository."""
    if not (work / ROWS).exists() and results.exists():
        rows = json.loads(results.read_text())["rows"]
        (work / ROWS).write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(work: Path) -> list[dict[str, Any]]:
    """The rows so far."""
    return json_lines(work / ROWS)


def one_row(work: Path, specs: dict[str, str], job: Job) -> None:
    """Train the runs of a job, measure the ways, and write the row."""
    parts = parts_of(specs[job.cell.data], job.cell, job.seed)
    file = work / f"{job.name}.npz"
    save_parts(file, parts.classes, train=parts.train, val=parts.val, test=parts.part("test"))
    steps = len(parts.train) // default_batch_size(len(parts.train))
    epochs = max(1, round(job.updates / steps))

    def run(name: str, **budget: int) -> Path:
        config = TrainConfig(
            data=f"npz:{file}",
            out=work / f"{job.name}-{name}",
            model=job.cell.model,
            seed=job.seed,
            flip=parts.mirror_keeps_class,
            threads=1,
            **budget,
        )
        return trained(config)

    default = run("default", epochs=epochs)
    # One cycle is the cosine run to the bit: tests/trainer/test_trial.py.
    is_cosine = read_run(default).schedule.cycles == 1
    cosine = default if is_cosine else run("cosine", cycles=1, cycle_epochs=epochs)
    row = {
        "job": job.name,
        "cell": asdict(job.cell) | {"name": job.cell.name},
        "updates": epochs * steps,
        "epochs": epochs,
        "budget": job.updates,
        "seed": job.seed,
        "cycles": len(read_run(default).snapshots),
        "val_images": len(parts.val),
        **measured(cosine, default, parts.part("test")),
    }
    with (work / ROWS).open("a") as rows:
        rows.write(json.dumps(row) + "\n")
    file.unlink()


def parts_of(spec: str, cell: Cell, seed: int) -> Dataset:
    """Training, validation and test images; the seed draws which of them teach and validate."""
    load = partial(load_dataset, spec, val_fraction=VAL_FRACTION, image_size=cell.image_size)
    dataset = load(split_seed=0)
    if dataset.test is not None and not dataset.brings_test:
        # Split 0 is the one that everybody looks at: each seed has a test part of its own instead.
        return load(split_seed=seed + 1)
    rest = together(dataset.train, dataset.val)
    test = dataset.test
    if test is not None:  # the first half has helped to choose the plan's rule, and reports nothing
        test = test.only(np.arange(len(test)) >= len(test) // 2)
    else:
        held_out_N = stratified(rest.labels_N, TEST_SHARE, 0)
        test, rest = rest.only(held_out_N), rest.only(~held_out_N)
    if cell.images is not None and cell.images < len(rest):
        rest = rest.only(stratified(rest.labels_N, cell.images / len(rest), seed))
    val_N = stratified(rest.labels_N, VAL_FRACTION, seed)
    train, val, test = (
        Split(shrunk(part.images_NCHW, cell.shrink), part.labels_N)
        for part in (rest.only(~val_N), rest.only(val_N), test)
    )
    return Dataset(dataset.classes, train, val, test, dataset.mirror_keeps_class, True)


def together(first: Split, second: Split) -> Split:
    """Two parts as one."""
    return Split(
        np.concatenate([first.images_NCHW, second.images_NCHW]),
        np.concatenate([first.labels_N, second.labels_N]),
    )


def measured(cosine: Path, default: Path, test: Split) -> dict[str, Any]:
    """The test figures of each way, and how many members the default has."""
    alone, pool = pooled([cosine]), pooled([default])
    ways = {
        "cosine": figures(alone, test, [alone.kinds_S.index("last")]),
        "cosine + EMA": figures(alone, test, [alone.kinds_S.index("ema")]),
    }
    chosen = selected(pool)
    ways["default"] = figures(pool, test, chosen.indices)
    return {"members": len(chosen.indices), "reason": chosen.reason, "ways": ways}


def selected(pool: Pool) -> Chosen:
    """What `export` chooses by default."""
    chosen_N = split_validation(pool.labels_N).selection_N
    return select(
        pool.probs_SNK[:, chosen_N],
        pool.labels_N[chosen_N],
        pool.kinds_S,
        pool.pays_S,
        trusted=pool.trusted,
    )


def figures(pool: Pool, test: Split, members: Sequence[int]) -> dict[str, float]:
    """Error, NLL and ECE of averaged candidates on test, after a temperature from validation."""
    return figures_of(pool, test, {"": members})[""]


def figures_of(
    pool: Pool, test: Split, ways: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, float]]:
    """The same of several ways to average candidates of one run, each asked once."""
    asked = sorted({place for places in ways.values() for place in places})
    candidates = [pool.candidates[place] for place in asked]
    probs_MNK = test_probabilities(
        candidates[0].run_dir, test, [candidate.snapshot for candidate in candidates]
    )
    return {
        way: _calibrated(pool, places, probs_MNK[np.searchsorted(asked, places)], test.labels_N)
        for way, places in ways.items()
    }


def places_of(pool: Pool, kind: Weights) -> list[int]:
    """Where a run's weights of one kind are among its candidates, by cycle."""
    return [place for place, found in enumerate(pool.kinds_S) if found == kind]


def _calibrated(
    pool: Pool, members: Sequence[int], probs_MNK: Floats, labels_N: Labels
) -> dict[str, float]:
    selection = Answers(pool.probs_SNK[list(members)], pool.labels_N).only(
        split_validation(pool.labels_N).selection_N
    )
    temperature = fit_temperature(mean_probabilities(selection.probs_MNK), selection.labels_N)
    found = summary(tempered(probs_MNK.mean(axis=0), temperature), labels_N)
    return {"error": 1 - found["accuracy"], "nll": found["nll"], "ece": found["ece"]}


def difference(rows: Sequence[dict[str, Any]], way: str, figure: str) -> NDArray[np.float64]:
    """How much more the default has than another way, run by run; NLLs relative."""
    ours = np.array([row["ways"]["default"][figure] for row in rows])
    theirs = np.array([row["ways"][way][figure] for row in rows])
    return np.asarray(ours / theirs - 1 if figure == "nll" else ours - theirs)


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The mean and half the width of its 95 % interval by Student's t."""
    count = len(values)
    if count < 2:
        return float(values.mean()), float("nan")
    reach = student.ppf(0.975, count - 1) * values.std(ddof=1) / count**0.5
    return float(values.mean()), float(reach)


def shown(values: NDArray[np.float64], form: str) -> str:
    """The mean in this form, and what its interval adds on either side, if there is one."""
    mean, reach = interval(values)
    return f"{mean:+{form}}" + (f" +- {reach:{form}}" if len(values) > 1 else "")


def cells_of(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, int, list[dict[str, Any]]]]:
    """The rows by cell and budget, in the order of both."""
    for key in dict.fromkeys((row["cell"]["name"], row["budget"]) for row in rows):
        yield *key, [row for row in rows if (row["cell"]["name"], row["budget"]) == key]


def over_all(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean differences of all rows where the plan has restarts, and of the others."""
    parts = {
        "restarts": [row for row in rows if row["cycles"] > 1],
        "one cycle": [row for row in rows if row["cycles"] == 1],
    }
    return {
        name: {
            way: {figure: interval(difference(part, way, figure)) for figure in FIGURES}
            for way in WAYS[:2]
        }
        for name, part in parts.items()
        if part
    }


def table(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A line per cell and budget: figures, and differences with 95 % intervals over the seeds."""
    head = ["data, images", "updates", "epochs", "cycles", "members", "seeds"]
    head += [f"{figure}: {' / '.join(WAYS)}" for figure in ("error", "NLL", "ECE")]
    head += [f"{figure} against {way}" for way in WAYS[:2] for figure in ("error", "NLL")]
    lines = [tuple(head)]
    for cell, budget, same in cells_of(rows):
        line = [cell, f"{budget:,}", f"{same[0]['epochs']}", f"{same[0]['cycles']}"]
        line += [f"{np.mean([row['members'] for row in same]):.1f}", f"{len(same)}"]
        for figure, form in (("error", ".2%"), ("nll", ".4f"), ("ece", ".4f")):
            means = [np.mean([row["ways"][way][figure] for row in same]) for way in WAYS]
            line.append(" / ".join(f"{mean:{form}}" for mean in means))
        for way in WAYS[:2]:
            line.append(f"{shown(100 * difference(same, way, 'error'), '.2f')} points")
            line.append(shown(difference(same, way, "nll"), ".1%"))
        lines.append(tuple(line))
    return lines


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fashion-mnist", metavar="DIR")
    parser.add_argument("--cifar10", metavar="DIR")
    parser.add_argument("--flowers", metavar="DIR", help="an image folder")
    parser.add_argument("--digits", action="store_true", help="the embedded digits too")
    parser.add_argument(
        "--budgets",
        type=int,
        nargs="*",
        default=[300, 1_000, 3_000, 10_000],
        metavar="UPDATES",
        help="none: only the table of the rows that are there",
    )
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, a thread each")
    add_sitting(parser, "budgets")
    return parser.parse_args()


if __name__ == "__main__":
    main()
