"""Run directories of a small network whose stages have names, trained in a second."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from snapensemble.contracts.files import write_atomically
from snapensemble.contracts.manifest import FileRef
from snapensemble.contracts.metrics import softmax, val_figures
from snapensemble.contracts.pixels import ImageContract
from snapensemble.contracts.run import (
    DataRecord,
    RestartFrom,
    RunManifest,
    ScheduleRecord,
    Snapshot,
    TrainingRecord,
    write_run,
)
from snapensemble.trainer.data.dataset import Dataset, load_dataset
from snapensemble.trainer.models.layers import Backbone
from snapensemble.trainer.models.registry import MODELS, Network, build_model
from snapensemble.trainer.models.small import plain_net
from snapensemble.trainer.models.tuning import divided

STAGED = "staged"
STAGES = ("first", "second", "third", "last")
CLASSES, SIDE, EPOCH = ("dark", "even", "light"), 8, 40


@contextmanager
def staged_network() -> Iterator[None]:
    """A network called `staged`, of four stages."""

    def backbone(channels: int) -> Backbone:
        plain = plain_net(8, channels)
        layers: list[nn.Module] = [
            nn.Sequential(*plain.layers[start : start + 3]) for start in range(0, 12, 3)
        ]
        return plain._replace(layers=layers, names=STAGES)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, STAGED, Network(backbone))
        yield


def write_images(file: Path, seed: int = 0, val: int = 480) -> Path:
    """An .npz file of images that are dark, of one grey, or light, under noise."""
    rng = np.random.default_rng(seed)
    parts: dict[str, Any] = {"classes": np.array(CLASSES)}
    for part, count in (("train", 320), ("val", val), ("test", 60)):
        labels_N = np.arange(count) % len(CLASSES)
        noise_NHWC = rng.normal(0, 90, (count, SIDE, SIDE, 3))
        images = np.clip(90 + 35 * labels_N[:, None, None, None] + noise_NHWC, 0, 255)
        parts |= {f"x_{part}": images.astype(np.uint8), f"y_{part}": labels_N}
    np.savez(file, **parts)
    return file


def staged_run(
    out: Path,
    images: Path,
    *,
    tune: str = "last",
    cycles: int = 3,
    trunk_seed: int = 0,
    seed: int = 0,
    model: str = STAGED,
    restart_from: RestartFrom = "first",
) -> Path:
    """A run as `--tune` leaves it: a trunk, and members that each begin with the first one.

    Args:
        out: the run directory.
        images: see `write_images`.
        tune: where the members begin; `all` leaves whole snapshots and no trunk.
        cycles: how many.
        trunk_seed: of the weights that are not trained.
        seed: of the members' training.
        model: the network.
        restart_from: what the schedule says: cycles of a star always pay, others are too short.
    """
    data = load_dataset(f"npz:{images}", val_fraction=0.1, split_seed=0)
    contract = ImageContract(channels=3, height=SIDE, width=SIDE, mean=(0.5,) * 3, std=(0.3,) * 3)
    torch.manual_seed(trunk_seed)
    network = build_model(model, len(CLASSES), contract)
    pixels = torch.from_numpy(data.train.images_NCHW)
    with torch.no_grad():
        network.train()(pixels)  # statistics that are not those of a fresh network
    network.eval()
    trunk, member = (nn.Identity(), network) if tune == "all" else divided(network, tune)
    torch.manual_seed(seed)
    snapshots: list[Snapshot] = []
    first: dict[str, Tensor] = {}
    for cycle in range(cycles):
        if cycle:
            member.load_state_dict(first)
        _train(trunk, member, data, seed + cycle)
        first = first or {name: tensor.clone() for name, tensor in member.state_dict().items()}
        with torch.no_grad():
            logits_NK = network.eval()(torch.from_numpy(data.val.images_NCHW)).numpy()
        name = f"cycle-{cycle:02d}"
        kept = _write(out, f"snapshots/{name}.safetensors", _bytes(member))
        snapshots.append(
            Snapshot(
                cycle=cycle,
                step=(cycle + 1) * EPOCH,
                learning_rate=0.0,
                file=kept.file,
                sha256=kept.sha256,
                val=val_figures(softmax(logits_NK), data.val.labels_N),
                val_logits=_write_array(out, f"val-logits/{name}.npy", logits_NK),
            )
        )
    write_run(
        out,
        RunManifest(
            snapensemble=version("snapensemble"),
            classes=CLASSES,
            image=contract,
            data=DataRecord(
                spec=f"npz:{images}",
                fingerprint=data.fingerprint(),
                split_seed=0,
                val_fraction=0.1,
                train_images=len(data.train),
                class_counts=tuple(np.bincount(data.train.labels_N).tolist()),
                val_images=len(data.val),
                test_images=60,
            ),
            schedule=_schedule(cycles, restart_from),
            training=TrainingRecord(
                model=model,
                parameters=1,
                batch_size=32,
                momentum=0.9,
                nesterov=False,
                weight_decay=0.0,
                crop_padding=0,
                flip=False,
                tune=tune,
                seed=seed,
                device="cpu",
                torch=torch.__version__,
            ),
            val_labels=_write_array(out, "val-labels.npy", data.val.labels_N),
            calibration_images=_write_array(
                out, "calibration-images.npy", data.train.images_NCHW[:64]
            ),
            trunk=None if tune == "all" else _write(out, "trunk.safetensors", _bytes(trunk)),
            snapshots=tuple(snapshots),
        ),
    )
    return out


def _schedule(cycles: int, restart_from: RestartFrom) -> ScheduleRecord:
    return ScheduleRecord(
        T_0=EPOCH,
        T_mult=1,
        eta_max=0.1,
        eta_min=0.0,
        restart_from=restart_from,
        cycles=cycles,
        steps_per_epoch=EPOCH,
        total_steps=cycles * EPOCH,
        cycle_ends=tuple((cycle + 1) * EPOCH for cycle in range(cycles)),
    )


def _train(trunk: nn.Module, member: nn.Module, data: Dataset, seed: int) -> None:
    with torch.no_grad():
        inputs = trunk(torch.from_numpy(data.train.images_NCHW))
    labels_N = torch.from_numpy(data.train.labels_N)
    optimizer = torch.optim.Adam(member.parameters(), lr=0.01)
    member.train()
    order = torch.Generator().manual_seed(seed)
    for _ in range(3):
        for batch in torch.split(torch.randperm(len(labels_N), generator=order), 32):
            loss = nn.functional.cross_entropy(member(inputs[batch]), labels_N[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    member.eval()


def _bytes(part: nn.Module) -> bytes:
    state: dict[str, Tensor] = {n: tensor.contiguous() for n, tensor in part.state_dict().items()}
    return safetensors.torch.save(state)


def _write(out: Path, file: str, data: bytes) -> FileRef:
    (out / file).parent.mkdir(parents=True, exist_ok=True)
    return FileRef(file=file, sha256=write_atomically(out / file, data), size=len(data))


def _write_array(out: Path, file: str, array: np.ndarray) -> FileRef:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return _write(out, file, buffer.getvalue())
