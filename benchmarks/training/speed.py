"""How fast is training, against a plain PyTorch loop and against TorchEnsemble?

    pip install --no-deps torchensemble==0.2.0
    python -m benchmarks.training.speed --data cifar10:DIR

All train the same network on the same images with the same batch size, threads, shifts and
mirrorings, for as many epochs. Ours is what `train` does: images on the device, changed a batch at
a time, weights channels_last, a fused optimizer, losses read at each step. The peers do as their
tutorials do: a DataLoader that changes image by image, with as many workers as `--workers` says
(several: one row each), and torch's defaults. Each is a process of its own; its time counts from
the first step on, compiling included, for which there is nothing in the cache. With `--epochs` the
snapshot ensembles of both are trained to the end and their test accuracy is compared.

Shapes: N images, B batch, C channels, H height, W width, R rounds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.machine import save, spread
from benchmarks.training.reference_loops import (
    LR,
    MOMENTUM,
    PADDING,
    WEIGHT_DECAY,
    data_loader,
    fit,
    peer,
    plain,
    torchensemble,
)
from benchmarks.training.snapshots import save_parts, test_probabilities
from snapensemble.contracts.cpu import cpu_budget
from snapensemble.contracts.metrics import accuracy
from snapensemble.trainer.augmentation.batch import Augmentation, fill_colour
from snapensemble.trainer.build import image_contract
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.data.dataset import load_dataset
from snapensemble.trainer.data.readers import Split
from snapensemble.trainer.device.transfers import Reading
from snapensemble.trainer.distributed import World
from snapensemble.trainer.loop import Augmented, Batches, Objective, train_epoch
from snapensemble.trainer.models.registry import build_model
from snapensemble.trainer.recording.checkpoint import State
from snapensemble.trainer.run import train
from snapensemble.trainer.schedule import Cycle
from snapensemble.trainer.schedules import Constant

OURS = "Snapensemble"
COMPILED = "Snapensemble, compiled"
WHOLE = 45_000  # images of CIFAR-10 that train
Seconds = NDArray[np.float64]  # of each run


def main() -> None:
    """Measure, print and save."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    if args.way is not None:
        print(json.dumps(epoch_seconds(args)))
        return
    figures: dict[str, Any] = {
        "settings": {k: v for k, v in vars(args).items() if k not in ("data", "way")}
    }
    figures["data"] = args.data.partition(":")[0]
    rows, figures["epoch_seconds"] = speeds(args)
    if args.epochs:
        accuracies, figures["test_accuracy"] = compared_accuracy(args)
        empty = ("",) * (len(rows[0]) - 2)
        rows += [("snapshot ensemble", "test accuracy", *empty)]
        rows += [(name, text, *empty) for name, text in accuracies]
    save(args.name, figures, rows)


def speeds(args: argparse.Namespace) -> tuple[list[tuple[str, ...]], dict[str, Any]]:
    """The seconds of each epoch of each way, every way in processes that take turns."""
    ways = [f"plain loop, DataLoader with {workers} workers" for workers in args.workers]
    ways += [OURS]
    ways += [COMPILED] if args.compile else []
    if args.torchensemble:
        ways += [f"TorchEnsemble, DataLoader with {workers} workers" for workers in args.workers]
    measured: dict[str, list[list[float]]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name in ways:
            measured[name].append(in_a_process(name))
    return speed_table(measured, args.images), measured


def in_a_process(way: str) -> list[float]:
    """The seconds of each epoch of a way, in a process with the same arguments."""
    command = [sys.executable, "-m", "benchmarks.training.speed", *sys.argv[1:], "--way", way]
    with tempfile.TemporaryDirectory(prefix="snapensemble-bench-") as cache:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        done = subprocess.run(
            command, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def epoch_seconds(args: argparse.Namespace) -> list[float]:
    """The seconds of each epoch of the way that this process is for."""
    dataset = load_dataset(args.data, val_fraction=0.1, split_seed=0)
    some = np.arange(args.images)
    part = Split(dataset.train.images_NCHW[some], dataset.train.labels_N[some])
    image = image_contract(dataset)

    def network() -> nn.Module:
        torch.manual_seed(0)
        return build_model(args.model, len(dataset.classes), image).train()

    way, _, workers = args.way.removesuffix(" workers").partition(", DataLoader with ")
    if workers:
        loader = data_loader(part, args.batch_size, int(workers))
        block = plain(network(), loader) if way == "plain loop" else torchensemble(network, loader)
    else:
        block = ours(network(), part, image, args, compiled=way == COMPILED)
    seconds = []
    for _ in range(args.timed_epochs):
        started = time.perf_counter()
        block()
        seconds.append(time.perf_counter() - started)
    return seconds


def speed_table(measured: dict[str, list[list[float]]], images: int) -> list[tuple[str, ...]]:
    """Rates by epoch, whole runs with what their first epoch took more, and ratios turn by turn."""
    rows: list[tuple[str, ...]] = [
        ("training", "images/s by epoch, median (least to most)", "first epoch more, s",
         "whole run, s", "faster than the first row, by epochs", "the whole run",
         f"as many epochs of {WHOLE:,} images"),
    ]  # fmt: skip
    first: tuple[Seconds, ...] | None = None
    for name, runs in measured.items():
        epoch_R = np.array([np.median(run[1:] or run) for run in runs])
        whole_R = np.array([sum(run) for run in runs])
        more_R = np.array([run[0] for run in runs]) - epoch_R
        long_R = np.maximum(more_R, 0) + len(runs[0]) * epoch_R * WHOLE / images
        ours = epoch_R, whole_R, long_R
        first = first or ours
        rates = [images / seconds for run in runs for seconds in run[1:] or run]
        ratios = (spread(a / b, ".2f") for a, b in zip(first, ours, strict=True))
        more, whole = np.median(more_R), np.median(whole_R)
        rows.append((name, spread(rates, ".0f"), f"{more:.1f}", f"{whole:.0f}", *ratios))
    return rows


def ours(
    model: nn.Module, part: Split, image: Any, args: argparse.Namespace, compiled: bool = False
) -> Callable[[], object]:
    """One epoch as `train` runs it."""
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's types lack it
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LR, momentum=MOMENTUM, nesterov=True,
        weight_decay=WEIGHT_DECAY, fused=True,
    )  # fmt: skip
    batches = Batches(
        source=Augmented(
            images_NCHW=torch.from_numpy(part.images_NCHW),
            augmentation=Augmentation(crop_padding=PADDING, flip=True),
            fill_C=fill_colour(image),
        ),
        labels_N=torch.from_numpy(part.labels_N),
        batch_size=args.batch_size,
        seed=0,
        world=World(),
    )
    state, reading = State(model, optimizer), Reading(batches.device)
    network: Any = torch.compile(model) if compiled else model
    objective = Objective(network=network, label_smoothing=0.0, autocast=False)

    def block() -> None:
        cycle = Cycle(state.epoch, state.step, batches.steps_per_epoch)
        for _ in train_epoch(state, objective, batches, Constant(eta=LR), cycle, reading):
            pass
        state.val_nlls.append(0.0)  # on to the next epoch

    return block


def compared_accuracy(
    args: argparse.Namespace,
) -> tuple[list[tuple[str, ...]], dict[str, list[float]]]:
    """Both ensembles trained on the same images for as many epochs: test accuracy by seed."""
    dataset = load_dataset(args.data, val_fraction=0.1, split_seed=0)
    assert dataset.test is not None
    part = Split(
        dataset.train.images_NCHW[: args.accuracy_images],
        dataset.train.labels_N[: args.accuracy_images],
    )
    found: dict[str, list[float]] = {"Snapensemble": [], "TorchEnsemble": []}
    with tempfile.TemporaryDirectory(prefix="snapensemble-bench-") as work:
        for seed in range(args.seeds):
            found["Snapensemble"].append(our_accuracy(args, dataset, part, Path(work), seed))
            found["TorchEnsemble"].append(peer_accuracy(args, dataset, part, seed))
    rows: list[tuple[str, ...]] = []
    for name, values in found.items():
        each = ", ".join(f"{value:.2%}" for value in values)
        rows.append((name, f"{np.mean(values):.2%} ({each})"))
    return rows, found


def our_accuracy(
    args: argparse.Namespace, dataset: Any, part: Split, work: Path, seed: int
) -> float:
    """Test accuracy of all snapshots of an SGDR run averaged, as the peer averages all its own."""
    data = work / "data.npz"
    save_parts(data, dataset.classes, train=part, val=dataset.val, test=dataset.test)
    config = TrainConfig(
        data=f"npz:{data}", out=work / str(seed), model=args.model, cycles=args.cycles,
        cycle_epochs=args.epochs // args.cycles, batch_size=args.batch_size, seed=seed,
        flip=True, crop_padding=PADDING, threads=args.threads,
    )  # fmt: skip
    probs_SNK = test_probabilities(train(config), dataset.test)
    return accuracy(probs_SNK.mean(axis=0), dataset.test.labels_N)


def peer_accuracy(args: argparse.Namespace, dataset: Any, part: Split, seed: int) -> float:
    """Test accuracy of TorchEnsemble's ensemble of as many snapshots."""
    image = image_contract(dataset)
    torch.manual_seed(seed)

    def network() -> nn.Module:
        return build_model(args.model, len(dataset.classes), image).train()

    loader = data_loader(part, args.batch_size, args.workers[0])
    ensemble = peer(network, args.cycles)
    fit(ensemble, loader, args.epochs)
    ensemble.eval()
    with torch.inference_mode():
        parts = torch.split(torch.from_numpy(dataset.test.images_NCHW), 500)
        probs_NK = torch.cat([ensemble(part) for part in parts]).double().numpy()
    return accuracy(probs_NK, dataset.test.labels_N)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, metavar="SPEC")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=cpu_budget())
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="of the DataLoader")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--timed-epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1, help="runs of each")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--compile", action="store_true", help="our compiled training too")
    parser.add_argument("--torchensemble", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--epochs", type=int, default=0, help="compare accuracy after so many")
    parser.add_argument("--cycles", type=int, default=3)
    parser.add_argument("--accuracy-images", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--name", default="training-speed", help="of the result files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
