"""What does int8 change in a network's answers, and how much faster is it?

    python -m benchmarks.export.int8_networks --photographs FOLDER
    python -m benchmarks.export.int8_networks RUN [RUN ...]

FOLDER has `train` and `val`, each with a folder per class. Each EfficientNet-Lite with its
published weights is measured twice: as it was published, which has the classes of ImageNet and not
those of the photographs, so only agreement says something; and with a logistic regression on its
features in place of the last layer. 256 training photographs calibrate, those of `val` judge.

Of a run directory the last snapshot is measured, on the test images of its data.

Shapes: N images, C channels, H height, W width, K classes.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.machine import markdown, save, spread
from snapensemble.contracts.metrics import accuracy, nll, softmax
from snapensemble.contracts.pixels import SUFFIXES, ImageContract
from snapensemble.contracts.run import read_run
from snapensemble.export.candidates import pooled
from snapensemble.export.int8.quantize import Rounding, to_int8
from snapensemble.export.int8.rounding import round_weights
from snapensemble.export.onnx_export import to_onnx
from snapensemble.export.parity import run_file
from snapensemble.export.report_inputs import compare_speed
from snapensemble.trainer.data.reread import reread
from snapensemble.trainer.models.registry import build_model, expected_normalisation
from snapensemble.trainer.recording.snapshots import load_model

NETWORKS = tuple(f"efficientnet-lite{number}" for number in range(3))
IMAGENET = 1000  # classes
CALIBRATION = 256  # images, as a run keeps
WEIGHT_DECAY = 1e-3  # of the regression
HEAD = ("network", "images", "weights rounded", "agreement", "accuracy", "int8", "NLL", "int8",
        "times as fast, 1 image", "16 images")  # fmt: skip


class Subject(NamedTuple):
    """A network, with images that taught it and images that judge it."""

    name: str
    onnx_file: bytes
    taught_NCHW: NDArray[np.uint8]
    images_NCHW: NDArray[np.uint8]
    labels_N: NDArray[np.int64] | None  # None if its classes are not those of the images


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--photographs", type=Path, metavar="FOLDER")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--side", type=int, default=160, help="of a photograph, in pixels (160)")
    parser.add_argument("--rounds", type=int, default=5, help="comparisons of speed (5)")
    parser.add_argument("--name", default="int8_networks", help="of the result files")
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures: list[dict[str, Any]] = []
    for subject in subjects(args):
        for way, rounding in WAYS.items():
            figures.append(measured(subject, way, rounding, args.rounds))
            print(markdown([HEAD, row(figures[-1])]), flush=True)
    save(args.name, {"networks": figures}, [HEAD, *map(row, figures)])


def to_the_nearest(_: onnx.ModelProto, __: NDArray[np.generic]) -> dict[str, NDArray[np.float32]]:
    """Leave every weight to the quantiser, which rounds each to its nearest neighbour."""
    return {}


WAYS: dict[str, Rounding] = {"to the nearest": to_the_nearest, "in turn": round_weights}


def subjects(args: argparse.Namespace) -> Iterator[Subject]:
    """Each network that is asked for, one at a time."""
    for path in args.runs:
        run = read_run(path)
        onnx_file = to_onnx(load_model(path, run, run.snapshots[-1]), run.image)
        test = reread(run.data, run.classes, run.image, split="test")
        taught_NCHW = pooled([path]).calibration_images()
        name = f"{run.training.model}, {path.name}"
        yield Subject(name, onnx_file, taught_NCHW, test.images_NCHW, test.labels_N)
    if args.photographs is None:
        return
    train_NCHW, train_N = photographs(args.photographs / "train", args.side)
    val_NCHW, val_N = photographs(args.photographs / "val", args.side)
    chosen = np.random.default_rng(0).choice(len(train_N), CALIBRATION, replace=False)
    for name in args.networks:
        normalisation = expected_normalisation(name, 3)
        assert normalisation is not None
        mean, std = normalisation
        image = ImageContract(channels=3, height=args.side, width=args.side, mean=mean, std=std)
        torch.manual_seed(0)
        model = build_model(name, IMAGENET, image, "hub")
        published = to_onnx(model, image)
        taught_NCHW = train_NCHW[chosen]
        yield Subject(f"{name}, ImageNet", published, taught_NCHW, val_NCHW, None)
        model.head = nn.Identity()
        features_NK = run_file(to_onnx(model, image), train_NCHW)
        model.head = regression(features_NK, train_N)
        yield Subject(f"{name}, regression", to_onnx(model, image), taught_NCHW, val_NCHW, val_N)


def photographs(folder: Path, side: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All photographs of a folder of folders as images_NCHW, and their classes."""
    image = ImageContract(channels=3, height=side, width=side, mean=(0, 0, 0), std=(1, 1, 1))
    images, labels = [], []
    for label, kind in enumerate(sorted(each for each in folder.iterdir() if each.is_dir())):
        for file in sorted(each for each in kind.iterdir() if each.suffix.lower() in SUFFIXES):
            images.append(image.decode(file.read_bytes()))
            labels.append(label)
    return np.stack(images), np.array(labels, np.int64)


def regression(features_NK: NDArray[np.floating], labels_N: NDArray[np.int64]) -> nn.Linear:
    """A logistic regression on frozen features, by L-BFGS."""
    x, y = torch.from_numpy(np.asarray(features_NK, np.float32)), torch.from_numpy(labels_N)
    layer = nn.Linear(x.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(layer(x), y) + WEIGHT_DECAY * layer.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return layer


def measured(subject: Subject, way: str, rounding: Rounding, rounds: int) -> dict[str, Any]:
    """What one way of rounding changes, and the rates of one thread, measured in turns."""
    int8_file = to_int8(subject.onnx_file, subject.taught_NCHW, rounding=rounding)
    before_NK, after_NK = (
        softmax(run_file(file, subject.images_NCHW)) for file in (subject.onnx_file, int8_file)
    )
    speeds = [
        compare_speed([subject.onnx_file], [int8_file], subject.images_NCHW) for _ in range(rounds)
    ]
    found: dict[str, Any] = {
        "network": subject.name,
        "images": len(before_NK),
        "way": way,
        "agreement": float((before_NK.argmax(axis=1) == after_NK.argmax(axis=1)).mean()),
        "rates": [[(each.batch_size, each.fp32, each.int8) for each in them] for them in speeds],
        "ratios": [[each.ratio for each in them] for them in speeds],
    }
    if subject.labels_N is not None:
        for name, probs_NK in (("fp32", before_NK), ("int8", after_NK)):
            found[f"accuracy_{name}"] = accuracy(probs_NK, subject.labels_N)
            found[f"nll_{name}"] = nll(probs_NK, subject.labels_N)
    return found


def row(found: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    judged = [("accuracy_fp32", ".2%"), ("accuracy_int8", ".2%"), ("nll_fp32", ".4f"),
              ("nll_int8", ".4f")]  # fmt: skip
    return (
        found["network"],
        f"{found['images']:,}",
        found["way"],
        f"{found['agreement']:.2%}",
        *(format(found[name], form) if name in found else "" for name, form in judged),
        *(spread(ratios, ".2f") for ratios in zip(*found["ratios"], strict=True)),
    )


if __name__ == "__main__":
    main()
