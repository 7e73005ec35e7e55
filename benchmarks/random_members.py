"""Five ResNet-20 with random weights: they run as long as trained ones, and are made at once."""

from importlib.metadata import version
from pathlib import Path

import torch

from snapensemble.bench.pictures import noise
from snapensemble.contracts.bundle import (
    BundleManifest,
    Member,
    ParityRecord,
    SelectionRecord,
    write_bundle,
)
from snapensemble.contracts.files import write_atomically
from snapensemble.contracts.manifest import ValFigures
from snapensemble.contracts.pixels import ImageContract
from snapensemble.contracts.run import DataRecord
from snapensemble.export.onnx_export import OPSET, to_onnx
from snapensemble.trainer.models.registry import build_model

MEMBERS, CLASSES = 5, 10
IMAGE = ImageContract(channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.25,) * 3)
PICTURES = noise(IMAGE).encoded
NO_FIGURES = ValFigures(nll=0, accuracy=0)


def random_members(count: int = MEMBERS) -> list[bytes]:
    """ONNX files, made by the exporter that makes bundles, each with weights of its own seed."""
    files = []
    for seed in range(count):
        torch.manual_seed(seed)
        files.append(to_onnx(build_model("resnet20", CLASSES, IMAGE), IMAGE))
    return files


def random_bundle(bundle_dir: Path) -> Path:
    """A bundle of random members, whose validation figures are all 0."""
    (bundle_dir / "members").mkdir(parents=True)
    members = []
    for seed, data in enumerate(random_members()):
        name = f"cycle-{seed:02d}"
        file = f"members/{name}.onnx"
        sha256 = write_atomically(bundle_dir / file, data)
        members.append(
            Member(
                name=name, file=file, sha256=sha256, weight=1 / MEMBERS, cycle=seed, step=seed + 1,
                val=NO_FIGURES,
            )
        )  # fmt: skip
    manifest = BundleManifest(
        snapensemble=version("snapensemble"),
        name="random-weights",
        version="0" * 8,
        classes=tuple(f"class {k}" for k in range(CLASSES)),
        image=IMAGE,
        members=tuple(members),
        selection=SelectionRecord(rule="all", metric="nll", candidates=MEMBERS),
        val=NO_FIGURES,
        opset=OPSET,
        parity=ParityRecord(batch_sizes=(), max_logit_difference=0, max_probability_difference=0),
        model="resnet20",
        data=DataRecord(
            spec="none", fingerprint="0" * 64, split_seed=0, val_fraction=0, train_images=1,
            val_images=1, test_images=0,
        ),
    )  # fmt: skip
    write_bundle(bundle_dir, manifest)
    return bundle_dir
