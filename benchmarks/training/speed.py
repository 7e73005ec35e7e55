"""How fast is training, against a plain PyTorch loop and against TorchEnsemble?

    pip install --no-deps torchensemble==0.2.0
    python -m benchmarks.training.speed --data cifar10:DIR

All train the same network on the same images with the same batch size, threads, shifts and
mirrorings. Ours is what `train` does: images on the device, changed a batch at a time, weights
channels_last, a fused optimizer. The peers do as their tutorials do: a DataLoader that changes
image by image, with as many workers as `--workers` says (several: one row each), and torch's
defaults. Blocks of steps are interleaved in one process, so that a busy machine slows all of them
alike. With `--epochs` the snapshot ensembles of both are trained to the end and their test
accuracy is compared.

Shapes: N images, B batch, C channels, H height, W width.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.machine import save
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


def main() -> None:
    """Measure, print and save."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    figures: dict[str, Any] = {"settings": {k: v for k, v in vars(args).items() if k != "data"}}
    figures["data"] = args.data.partition(":")[0]
    rows, figures["images_per_second"] = speeds(args)
    if args.epochs:
        accuracies, figures["test_accuracy"] = compared_accuracy(args)
        rows += [("", "", "", ""), ("snapshot ensemble", "test accuracy", "", ""), *accuracies]
    save(args.name, figures, rows)


def speeds(args: argparse.Namespace) -> tuple[list[tuple[str, ...]], dict[str, list[float]]]:
    """Images per second of each way, in blocks of steps that take turns."""
    dataset = load_dataset(args.data, val_fraction=0.1, split_seed=0)
    some = np.arange(args.steps * args.batch_size)
    part = Split(dataset.train.images_NCHW[some], dataset.train.labels_N[some])
    image = image_contract(dataset)

    def network(seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return build_model(args.model, len(dataset.classes), image).train()

    def always(block: Callable[[], object]) -> Callable[[], Callable[[], object]]:
        return lambda: block

    # Each way makes its block ready while no time is taken.
    ways = {"Snapensemble": always(ours(network(), part, image, args))}
    if args.compile:
        ways["Snapensemble, compiled"] = always(ours(network(), part, image, args, compiled=True))
    for workers in args.workers:
        loader = data_loader(part, args.batch_size, workers)
        ways[f"plain loop, DataLoader with {workers} workers"] = always(plain(network(), loader))
        if args.torchensemble:
            ways[f"TorchEnsemble, DataLoader with {workers} workers"] = partial(
                torchensemble, network, loader
            )
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(args.rounds + 1):
        for name, ready in ways.items():
            block = ready()
            started = time.perf_counter()
            block()
            if turn:  # the first one warms up
                measured[name].append(len(part) / (time.perf_counter() - started))
    return speed_table(measured), measured


def speed_table(measured: dict[str, list[float]]) -> list[tuple[str, ...]]:
    """Medians with their spread, and the ratio of ours to each, turn by turn."""
    rows: list[tuple[str, ...]] = [
        ("training", "images/s, median", "least to most", "Snapensemble is faster by")
    ]
    first = np.array(measured["Snapensemble"])
    for name, values in measured.items():
        ratios = first / np.array(values)
        ratio = f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
        rows.append(
            (
                name,
                f"{np.median(values):.0f}",
                f"{min(values):.0f} to {max(values):.0f}",
                "" if name == "Snapensemble" else ratio,
            )
        )
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
        rows.append((name, f"{np.mean(values):.2%}", each, ""))
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
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 0], help="of the DataLoader")
    parser.add_argument("--steps", type=int, default=40, help="steps in a block")
    parser.add_argument("--rounds", type=int, default=5, help="blocks of each")
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
