"""What fine-tuning gives in a fixed time: each way from a folder of pictures to what is served.

    python -m benchmarks.training.fine_tuning --folder NAME=DIR --work DIR [--minutes 10]

Every way gets the same minutes, beginning with nothing decoded and nothing cached, on the same
threads. The network is EfficientNet-Lite0 with its ImageNet weights, at 160 pixels. What is in the
folder's val/ (or a fifth of it, if it has no parts) is for the test figures alone; a fifth of the
rest validates, by seed. The temperature, the members and the thresholds come from validation. The
served rate is that of one thread, in process; the ways take turns.

A row is written as soon as it is known, and rows that are there are not computed again.

Shapes: N images, C features, K classes.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from benchmarks.machine import RESULTS, save
from benchmarks.rows import add_sitting
from benchmarks.training.budgets import ROWS, begin, rows_of, shown
from snapensemble.contracts.bundle import read_bundle
from snapensemble.contracts.cascade import Mode
from snapensemble.contracts.metrics import Floats, nll, summary, tempered
from snapensemble.evaluate import evaluate
from snapensemble.export.bundle import build_bundle
from snapensemble.export.config import ExportConfig
from snapensemble.export.temperature import fit_temperature
from snapensemble.serving.inference.engine import Limits, load_engine
from snapensemble.trainer.build import image_contract
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.data.dataset import Dataset, load_dataset
from snapensemble.trainer.fine_tuning.features import features, folded
from snapensemble.trainer.models.registry import build_model
from snapensemble.trainer.models.tuning import HEAD, divided
from snapensemble.trainer.run import train

MODEL, SIZE = "efficientnet-lite0", 160
VAL_FRACTION = 0.2
CYCLES = 5
ROUNDS, RATE_IMAGES = 5, 64
RATES = "images/s"
ONE_MEMBER = "last stage, one cosine"
FLOOR, PEER, COSINE = "regression on frozen features", "fastai", "whole network, one cosine"


@dataclass(frozen=True, slots=True)
class Way:
    """A run, which several ways may share, and what is made of it."""

    run: str
    train: dict[str, Any] = field(default_factory=dict)
    export: dict[str, Any] = field(default_factory=dict)
    mode: Mode = "full"


WHOLE = {"tune": "all", "cycles": 1}
ONE = {"cycles": 1}
CHAIN = {"cycles": CYCLES, "restart_from": "previous"}
STAR = {"cycles": CYCLES, "restart_from": "first"}
ALL = {"select": "all", "cascade": False}
LAST = {"select": "last", "members": 1, "cascade": False}
WAYS = {
    COSINE: Way("whole", WHOLE, LAST),
    ONE_MEMBER: Way("one", ONE, LAST),
    "chain, ensemble of 5": Way("chain", CHAIN, ALL),
    "star, ensemble of 5": Way("star", STAR, ALL),
    "star, soup": Way("star", STAR, {"select": "soup", "cascade": False}),
    "star, int8 cascade": Way(
        "star",
        STAR,
        {"select": "all", "cascade": True, "quantize": "int8", "int8_gate": "estimate"},
        "cascade",
    ),
    "default": Way("one", ONE),  # which is what the plan comes to, and export's own choice
}


def main() -> None:
    """Train and measure what is missing, print all rows, and save them."""
    args = _arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    begin(args.work, RESULTS / f"{args.name}.json")
    for seed in range(args.seeds):
        for name, folder in args.folder:
            one_seed(args, name, folder, seed)
    rows = rows_of(args.work)
    save(args.name, {"rows": rows}, table(rows))


def one_seed(args: argparse.Namespace, name: str, folder: Path, seed: int) -> None:
    """All ways on one data set with one seed."""
    known = {(row["data"], row["seed"], row["way"]) for row in rows_of(args.work)}
    wanted = [FLOOR, *([PEER] if args.fastai else []), *WAYS]
    missing = [way for way in wanted if (name, seed, way) not in known]
    if not missing:
        return
    data = parts(args.work / f"data-{name}-{seed}", folder, seed)
    work = args.work / f"{name}-{seed}"

    def keep(way: str, found: dict[str, Any]) -> None:
        line = {"data": name, "seed": seed, "way": way, "minutes": args.minutes, **found}
        with (args.work / ROWS).open("a") as file:
            file.write(json.dumps(line) + "\n")

    if FLOOR in missing:
        keep(FLOOR, floor(data, args.threads))
    for way in missing:
        if way in WAYS:
            run_dir, seconds = trained(args, data, work, seed, WAYS[way])
            bundle_dir = exported(run_dir, work, way)
            keep(way, {"seconds": seconds, **measured(bundle_dir, WAYS[way].mode)})
    if PEER in missing:
        keep(PEER, fastai(args, data))
    keep(RATES, images_per_second({way: exported(work, work, way) for way in WAYS}, data))


def parts(directory: Path, folder: Path, seed: int) -> Path:
    """train/, val/ and test/ as links to the folder's pictures.

    The folder's val/ is the test part, or a fifth of each class if it has no parts; a fifth of what
    is left validates. The seed draws both.
    """
    has_parts = (folder / "train").is_dir()
    for kind in sorted((folder / "train" if has_parts else folder).iterdir()):
        files = sorted(file.resolve() for file in kind.iterdir() if file.is_file())
        np.random.default_rng([seed, len(files)]).shuffle(files)
        cut = round(VAL_FRACTION * len(files))
        if has_parts:
            test = sorted((folder / "val" / kind.name).iterdir())
        else:
            test, files = files[:cut], files[cut:]
        for part, some in (("test", test), ("val", files[:cut]), ("train", files[cut:])):
            place = directory / part / kind.name
            place.mkdir(parents=True, exist_ok=True)
            for file in some:
                with contextlib.suppress(FileExistsError):
                    (place / file.name).symlink_to(file.resolve())
    return directory


def loaded(data: Path) -> Dataset:
    """The data set as the runs see it."""
    return load_dataset(str(data), val_fraction=VAL_FRACTION, split_seed=0, image_size=SIZE)


def trained(
    args: argparse.Namespace, data: Path, work: Path, seed: int, way: Way
) -> tuple[Path, float]:
    """The run directory, and the seconds that the whole run took, decoding included."""
    out = work / way.run
    clock = out.with_suffix(".seconds")
    config = TrainConfig(
        data=str(data),
        out=out,
        model=MODEL,
        seed=seed,
        threads=args.threads,
        minutes=args.minutes,
        **way.train,
    )
    if clock.exists():
        return out, float(clock.read_text())
    shutil.rmtree(out, ignore_errors=True)  # one that was cut short has lost its clock
    cache = work / f"{way.run}-cache"
    before = os.environ.get("SNAPENSEMBLE_CACHE")
    os.environ["SNAPENSEMBLE_CACHE"] = str(cache)  # nothing of another way is found
    started = time.monotonic()
    train(config)
    seconds = time.monotonic() - started
    os.environ.pop("SNAPENSEMBLE_CACHE")
    if before is not None:
        os.environ["SNAPENSEMBLE_CACHE"] = before
    shutil.rmtree(cache)
    clock.write_text(str(seconds))
    return out, seconds


def exported(run_dir: Path, work: Path, way: str) -> Path:
    """The bundle of a way."""
    bundle_dir = work / f"bundle-{way.replace(' ', '-').replace(',', '')}"
    if not bundle_dir.exists():
        build_bundle(run_dir, bundle_dir, ExportConfig(report=False, **WAYS[way].export))
    return bundle_dir


def measured(bundle_dir: Path, mode: Mode) -> dict[str, Any]:
    """Test figures of what is served, and what an image takes."""
    bundle = read_bundle(bundle_dir)
    found = evaluate(bundle_dir, mode=mode)
    served = found["ensemble"]
    price = bundle.price
    return {
        "error": 1 - served["accuracy"],
        "nll": served["nll"],
        "ece": served["ece"],
        "members": len(bundle.members),
        "asked": served["members_used"],
        "price": None if price is None else price.in_single_networks,
        "test_images": found["images"],
    }


def fastai(args: argparse.Namespace, data: Path) -> dict[str, Any]:
    """What fastai's own fine-tuning makes of the same folder in the same time, calibrated alike."""
    answers = args.work / "fastai.npz"
    command = [args.fastai, "-m", "benchmarks.peers.fastai_fine_tuning", data, answers]
    command += ["--minutes", f"{args.minutes:g}", "--threads", f"{args.threads}"]
    started = time.monotonic()
    subprocess.run([*map(str, command)], check=True)
    seconds = time.monotonic() - started
    with np.load(answers) as found:
        temperature = fit_temperature(found["val_probs"], found["val_labels"])
        probs_NK = tempered(found["test_probs"], temperature)
        labels_N = found["test_labels"]
    return {
        "seconds": seconds,
        **figures(probs_NK, labels_N),
        "members": 1,
        "asked": 1.0,
        "price": None,
        "test_images": len(labels_N),
    }


def figures(probs_NK: Floats, labels_N: NDArray[np.int64]) -> dict[str, float]:
    """Error, NLL and ECE of calibrated probabilities."""
    found = summary(probs_NK, labels_N)
    return {"error": 1 - found["accuracy"], "nll": found["nll"], "ece": found["ece"]}


def floor(data: Path, threads: int) -> dict[str, Any]:
    """A logistic regression on the features before the last layer; validation picks its penalty."""
    torch.set_num_threads(threads)
    started = time.monotonic()
    dataset = loaded(data)
    image = image_contract(dataset, MODEL)
    trunk, _ = divided(build_model(MODEL, len(dataset.classes), image, "hub"), HEAD)
    trunk = folded(trunk)
    train_NC, val_NC, test_NC = (
        features(trunk, torch.from_numpy(part.images_NCHW)).numpy()
        for part in (dataset.train, dataset.val, dataset.part("test"))
    )
    scale = train_NC.std()
    fits = [
        LogisticRegression(C=1 / (l2 * len(train_NC)), max_iter=2_000).fit(
            train_NC / scale, dataset.train.labels_N
        )
        for l2 in (0.003, 0.01, 0.03, 0.1, 0.3)
    ]
    best = min(fits, key=lambda fit: nll(fit.predict_proba(val_NC / scale), dataset.val.labels_N))
    temperature = fit_temperature(best.predict_proba(val_NC / scale), dataset.val.labels_N)
    probs_NK = tempered(best.predict_proba(test_NC / scale), temperature)
    return {
        "seconds": time.monotonic() - started,
        **figures(probs_NK, dataset.part("test").labels_N),
        "members": 1,
        "asked": 1.0,
        "price": 1.0,
        "test_images": len(dataset.part("test")),
    }


def images_per_second(bundles: dict[str, Path], data: Path) -> dict[str, float]:
    """The rate of each way in one thread; the median of rounds in which all take their turns."""
    engines = {way: load_engine(bundle, Limits(threads=1)) for way, bundle in bundles.items()}
    images_NCHW = loaded(data).part("test").images_NCHW[:RATE_IMAGES]
    rounds: dict[str, list[float]] = {way: [] for way in engines}
    with ExitStack() as stack:
        for engine in engines.values():
            stack.enter_context(engine)
        for _ in range(ROUNDS):
            for way, engine in engines.items():
                started = time.monotonic()
                engine.ask(images_NCHW, WAYS[way].mode)
                rounds[way].append(len(images_NCHW) / (time.monotonic() - started))
    return {way: median(found) for way, found in rounds.items()}


def table(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A line per data set and way: means over seeds, and paired differences to one cosine run."""
    head = ["data", "way", "seeds", "seconds", "error", "NLL", "ECE", "members asked"]
    head += ["images/s, of one network's", f"error - {COSINE}", f"NLL - {COSINE}"]
    lines = [tuple(head)]
    rates = {(row["data"], row["seed"]): row for row in rows if row["way"] == RATES}
    for data, way in dict.fromkeys((row["data"], row["way"]) for row in rows):
        if way == RATES:
            continue
        same = {row["seed"]: row for row in rows if (row["data"], row["way"]) == (data, way)}
        base = {row["seed"]: row for row in rows if (row["data"], row["way"]) == (data, COSINE)}
        line = [data, way, f"{len(same)}", f"{_mean(same, 'seconds'):.0f}"]
        line += [f"{_mean(same, 'error'):.2%}", f"{_mean(same, 'nll'):.4f}"]
        line += [f"{_mean(same, 'ece'):.4f}", f"{_mean(same, 'asked'):.2f}"]
        ratios = [
            rates[data, seed][way] / rates[data, seed][ONE_MEMBER]
            for seed in same
            if way in rates.get((data, seed), {})
        ]
        line.append(f"{np.mean(ratios):.2f}" if ratios else "")
        for figure, unit in (("error", 100), ("nll", 1)):
            pairs = [same[seed][figure] - base[seed][figure] for seed in same if seed in base]
            line.append(_difference(unit * np.array(pairs)) if way != COSINE else "")
        lines.append(tuple(line))
    return lines


def _mean(rows: dict[int, dict[str, Any]], figure: str) -> float:
    return float(np.mean([row[figure] for row in rows.values()]))


def _difference(values: NDArray[np.float64]) -> str:
    return shown(values, ".3f") if len(values) else ""


def _folder(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    return name, Path(folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=_folder, action="append", required=True, metavar="NAME=DIR",
        help="train/CLASS/* and val/CLASS/*, or CLASS/*; may be given several times",
    )  # fmt: skip
    parser.add_argument("--minutes", type=float, default=10.0, help="for each run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fastai", metavar="PYTHON", help="an interpreter that has fastai")
    add_sitting(parser, "fine-tuning")
    return parser.parse_args()


if __name__ == "__main__":
    main()
