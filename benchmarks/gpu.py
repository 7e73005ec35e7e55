"""What a GPU does for training and serving: checked, measured, and then the paper's setting.

    python -m benchmarks.packed --data cifar10:DIR --out cifar10.npz
    python -m benchmarks.gpu --data cifar10.npz --work DIR --minutes 9

It needs nothing but the file, and no network. Training on the GPU is compared with training on the
processor (losses, accuracy, rate; bf16; compiled), a run is stopped and goes on, NCCL averages the
gradients of one process, and ONNX Runtime's CUDA provider answers through the serving engine. What
is left of the minutes goes to Snapshot Ensembles as Huang et al. 2017 (arXiv:1704.00109) train
them: cycles of 40 epochs on CIFAR-10, several runs side by side.

A line of `DIR/rows.jsonl` is written after each row. Rows that are there are not measured again,
and runs that were stopped go on: give it the same DIR again. `--smallest` tries all of it out on a
processor, in seconds.

Shapes: M members, N images, K classes.
"""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.nn.parallel import DistributedDataParallel

from benchmarks.export.price_of_one import images_per_second
from benchmarks.machine import save
from benchmarks.packed import unpacked
from benchmarks.rows import Rows, Skipped, json_lines
from benchmarks.training.snapshots import test_probabilities, trained
from snapensemble.contracts.metrics import summary
from snapensemble.contracts.pixels import ImageContract
from snapensemble.contracts.run import METRICS_FILE, RUN_FILE, read_run
from snapensemble.contracts.sessions import PROVIDERS, Provider
from snapensemble.export.bundle import build_bundle
from snapensemble.export.config import ExportConfig
from snapensemble.serving.inference.engine import Limits, load_engine
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.config_file import to_toml
from snapensemble.trainer.data.dataset import load_dataset
from snapensemble.trainer.models.registry import build_model
from snapensemble.trainer.run import resume

CHECKS = "tests/trainer/test_cuda.py"
ROOT = Path(__file__).parents[1]
COMPARED = 10  # steps, before rounding has grown
# How far losses of the first steps may be from the processor's, relative; as in the tests.
WAYS: dict[str, tuple[dict[str, Any], float]] = {
    "fp32": ({}, 0.02),
    "bf16": ({"precision": "bf16"}, 0.1),
    "compiled": ({"compile": True}, 0.02),
    "bf16, compiled": ({"precision": "bf16", "compile": True}, 0.1),
}
LAST_SECONDS = 40.0  # kept for stopping the runs and for the test images
LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is done."""

    model: str
    images: int | None  # of each part, in the checks
    epochs: int
    models: tuple[str, ...]  # of the paper's setting
    cycle_epochs: int
    cycles: int


FULL = Scale(
    model="resnet20", images=5_000, epochs=4, models=("resnet20", "resnet110"), cycle_epochs=40,
    cycles=5,
)  # fmt: skip
SMALLEST = Scale(model="tiny", images=100, epochs=2, models=("tiny",), cycle_epochs=1, cycles=2)


def main() -> None:
    """Check, measure, train until time is up, and save."""
    args = _arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    scale = SMALLEST if args.smallest else FULL
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not args.smallest:
        raise SystemExit("torch sees no GPU here; --smallest tries everything out on the processor")
    rows = Rows(args.work / "rows.jsonl", time.monotonic() + 60 * args.minutes - LAST_SECONDS)
    few = unpacked(args.data, args.work / "few.npz", scale.images)
    check(rows, args.work, few, scale, device)
    everything = few if args.smallest else unpacked(args.data, args.work / "all.npz")
    train_side_by_side(rows, args.work, everything, scale, device, args.runs)
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    settings = {"minutes": args.minutes, "runs": args.runs, "smallest": args.smallest}
    figures = {"gpu": gpu, "settings": settings, "rows": rows.rows}
    save(args.name, figures, table(rows.rows))
    if any(row.get("ok") is False for row in rows.rows):
        raise SystemExit("not all is as it should be: see the rows with ok false")


def check(rows: Rows, work: Path, data: str, scale: Scale, device: str) -> None:
    """The rows that compare the device with the processor, and those of what it can do."""

    def config(name: str, **changes: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "model": scale.model, "cycles": 2, "cycle_epochs": scale.epochs // 2, "seed": 3,
            "device": device, "batch_size": min(128, (scale.images or 128) // 4),
            "compile": False, **changes,
        }  # fmt: skip
        return TrainConfig(data=data, out=work / "checks" / name.replace(", ", "-"), **values)

    rows.measure("processor", lambda: figures_of(trained(config("processor", device="cpu"))))
    reference = work / "checks" / "processor"
    for name, (changes, limit) in WAYS.items():
        if changes.get("compile") and device == "cpu":
            continue
        rows.measure(
            name,
            lambda name=name, changes=changes, limit=limit: compared(  # type: ignore[misc]
                trained(config(name, **changes)), reference, limit
            ),
        )
    rows.measure("stopped and resumed", lambda: resumed(config("stopped"), work / "checks/fp32"))
    rows.measure("one process, gradients averaged", lambda: collective(device))
    rows.measure("tests that need a GPU", lambda: tests(device))
    rows.measure("served", lambda: served(work / "checks" / "fp32", work / "bundle", data, device))


def figures_of(run_dir: Path) -> dict[str, Any]:
    """The last accuracy of a run, and its rate in the last epoch."""
    run = read_run(run_dir)
    seconds = [line["seconds"] for line in lines_of(run_dir) if "seconds" in line]
    images = run.schedule.steps_per_epoch * run.training.batch_size
    return {
        "accuracy": run.snapshots[-1].val.accuracy,
        "images_per_second": round(images / seconds[-1], 1),
    }


def lines_of(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics; none where it has not begun."""
    return json_lines(run_dir / METRICS_FILE)


def losses_of(run_dir: Path) -> NDArray[np.float64]:
    """The loss of each step."""
    return np.array([line["loss"] for line in lines_of(run_dir) if "loss" in line])


def compared(run_dir: Path, reference: Path, limit: float) -> dict[str, Any]:
    """How far the losses of the first steps are from those of another run."""
    ours, theirs = losses_of(run_dir), losses_of(reference)
    apart = np.abs(ours / theirs - 1)
    first = float(apart[:COMPARED].max())
    return {
        "ok": first <= limit,
        "losses_apart_first": round(first, 5),
        "losses_apart_last": round(float(apart[-COMPARED:].mean()), 5),
        **figures_of(run_dir),
    }


def resumed(config: TrainConfig, whole: Path) -> dict[str, Any]:
    """A run that gets a signal after its first epoch and goes on, against one that got none."""
    process = started(config)
    while process.poll() is None and not any("val_nll" in each for each in lines_of(config.out)):
        time.sleep(LOOK_SECONDS / 10)
    process.send_signal(signal.SIGTERM)
    code = process.wait(timeout=60)
    steps = len(losses_of(config.out))
    resume(config.out)
    found = compared(config.out, whole, 0.05)
    return {**found, "stopped_after_steps": steps, "exit_code": code}


def started(config: TrainConfig) -> subprocess.Popen[bytes]:
    """A process that trains this, or goes on with it."""
    command = [sys.executable, "-m", "snapensemble.trainer"]
    if (config.out / RUN_FILE).exists():
        command += ["--resume", str(config.out)]
    else:
        file = config.out.with_suffix(".toml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(to_toml(config))
        command += ["--config", str(file), "--out", str(config.out)]
    with config.out.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def collective(device: str) -> dict[str, Any]:
    """The gradients of a network in a group of one process, against those without a group."""
    backend = "nccl" if device == "cuda" else "gloo"
    image = ImageContract(channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    images_BCHW = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8, device=device)
    gradients = []
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        for grouped in (False, True):
            torch.manual_seed(0)
            model = build_model("tiny", 10, image).to(device).train()
            network = DistributedDataParallel(model) if grouped else model
            torch.autograd.backward(network(images_BCHW).square().mean())
            gradients.append([p.grad.cpu() for p in model.parameters() if p.grad is not None])
        total = torch.ones(1, device=device)
        dist.all_reduce(total)
    finally:
        dist.destroy_process_group()
    alone, together = gradients
    apart = max(float((a - b).abs().max()) for a, b in zip(alone, together, strict=True))
    return {"ok": apart < 1e-5 and total.item() == 1, "backend": backend, "gradients_apart": apart}


def tests(device: str) -> dict[str, Any]:
    """The tests that need a GPU, in a process of their own."""
    if device == "cpu":
        raise Skipped("there is no GPU")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", CHECKS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {"ok": done.returncode == 0, "said": (done.stdout + done.stderr)[-600:]}


def served(run_dir: Path, bundle_dir: Path, data: str, device: str) -> dict[str, Any]:
    """A bundle's answers and rate with ONNX Runtime's CUDA provider, against the processor's."""
    if PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        if device == "cuda":
            raise Skipped("this onnxruntime has no CUDA provider; install onnxruntime-gpu")
        providers: tuple[Provider, ...] = ("cpu",)
    else:
        providers = ("cpu", "cuda")
    build_bundle(run_dir, bundle_dir, ExportConfig(members=1, select="last"), force=True)
    images_NCHW = load_dataset(data, val_fraction=0.1, split_seed=0).val.images_NCHW
    rates, probs = {}, []
    with ExitStack() as stack:
        for name in providers:
            limits = Limits(threads=1, providers=("cuda", "cpu") if name == "cuda" else ("cpu",))
            engine = stack.enter_context(load_engine(bundle_dir, limits))
            used = {provider for each in engine.providers.values() for provider in each}
            if PROVIDERS[name] not in used:  # ONNX Runtime goes on without what it cannot load
                return {"ok": False, "failed": f"{PROVIDERS[name]} was not used, but {used}"}
            probs.append(engine.predict(images_NCHW))
            seconds = 2.0 if device == "cuda" else 0.1
            rates[name] = round(images_per_second(engine, "full", images_NCHW, 32, seconds), 1)
    apart = float(np.abs(probs[0] - probs[-1]).max())
    # A GPU multiplies with 10 bits of mantissa where torch and ONNX Runtime are not told otherwise.
    return {"ok": apart < 0.01, "probabilities_apart": apart, "images_per_second": rates}


def train_side_by_side(
    rows: Rows, work: Path, data: str, scale: Scale, device: str, runs: int
) -> None:
    """Train each network with several seeds at once until time is up; a row per cycle and run."""
    jobs = {
        f"{model} seed {seed}": TrainConfig(
            data=data, out=work / "paper" / f"{model}-{seed}", model=model, seed=seed,
            cycles=scale.cycles, cycle_epochs=scale.cycle_epochs, precision="bf16", compile=False,
            device=device, threads=1, checkpoint_minutes=1,
        )
        for seed, model in product(range(runs), scale.models)
    }  # fmt: skip
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        if rows.seconds_left > 0:
            for name, config in jobs.items():
                if not (config.out / RUN_FILE).exists() or not read_run(config.out).complete:
                    processes[name] = started(config)
        while rows.seconds_left > 0 and any(each.poll() is None for each in processes.values()):
            time.sleep(LOOK_SECONDS)
            note_cycles(rows, jobs)
    finally:
        for process in processes.values():
            process.send_signal(signal.SIGTERM)
        codes = {name: process.wait(timeout=60) for name, process in processes.items()}
    note_cycles(rows, jobs)
    for name, config in jobs.items():
        rows.measure(
            f"{name}: {'ended' if codes.get(name, 0) == 0 else 'so far'}",
            lambda config=config: so_far(config.out),  # type: ignore[misc]
            late=True,
        )


def note_cycles(rows: Rows, jobs: dict[str, TrainConfig]) -> None:
    """A row for each cycle that has ended."""
    for name, config in jobs.items():
        if not (config.out / RUN_FILE).exists():
            continue
        for snapshot in read_run(config.out).snapshots:
            row = f"{name}: cycle {snapshot.cycle}"
            if not rows.has(row):
                val = snapshot.val
                rows.add(row, {"val_accuracy": val.accuracy, "val_nll": round(val.nll, 4)})


def so_far(run_dir: Path) -> dict[str, Any]:
    """Epochs and rate of a run, and the errors on test of its members and of their average."""
    epochs = [line["seconds"] for line in lines_of(run_dir) if "seconds" in line]
    if not epochs:
        raise Skipped("it had not finished an epoch")
    run = read_run(run_dir)
    images = run.schedule.steps_per_epoch * run.training.batch_size
    found = {
        "epochs": len(epochs),
        "of": run.schedule.total_steps // run.schedule.steps_per_epoch,
        "images_per_second": round(images / float(np.median(epochs)), 1),
    }
    if not run.snapshots:
        return found
    test = load_dataset(run.data.spec, val_fraction=0.1, split_seed=0).part("test")
    probs_MNK = test_probabilities(run_dir, test)
    errors = [1 - summary(probs_NK, test.labels_N)["accuracy"] for probs_NK in probs_MNK]
    together = 1 - summary(probs_MNK.mean(axis=0), test.labels_N)["accuracy"]
    return {**found, "test_errors": errors, "test_error_of_all": together}


def table(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A line per row: whether it is as it should be, and its figures."""
    lines: list[tuple[str, ...]] = [("what", "as it should be", "seconds", "figures")]
    for row in rows:
        verdict = {True: "yes", False: "**no**", None: ""}[row.get("ok")]
        lines.append((row["row"], verdict, str(row.get("seconds", "")), ", ".join(words(row))))
    return lines


def words(row: dict[str, Any]) -> Iterator[str]:
    """The figures of a row by name."""
    for name, value in row.items():
        if name not in ("row", "ok", "seconds", "said"):
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            yield f"{name.replace('_', ' ')} {text}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, metavar="FILE.npz")
    parser.add_argument("--work", required=True, type=Path, metavar="DIR", help="goes on from it")
    parser.add_argument("--minutes", type=float, default=9.0, help="all in all")
    parser.add_argument("--runs", type=int, default=2, help="of each network, side by side")
    parser.add_argument("--smallest", action="store_true", help="try it out, on a processor too")
    parser.add_argument("--name", default="gpu", help="of the result files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
