"""How good are best-m and last-m on test, and does HTTP answer what `evaluate` measures?

    python -m benchmarks.pipeline                            # trains on the digits first
    python -m benchmarks.pipeline --run RUN_DIR --name NAME  # a run that is there

Exports the best 3, the best 2, the last 2 and all snapshots, evaluates each on the test split,
serves the best 3 and POSTs test images to it as PNG, one request each over one connection.
"""

import argparse
import io
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.machine import save
from snapensemble.contracts.bundle import Rule, read_bundle
from snapensemble.contracts.metrics import mean_probabilities
from snapensemble.contracts.run import RunManifest, read_run
from snapensemble.demo import demo_config
from snapensemble.evaluate import bundle_data, evaluate, sample
from snapensemble.export.bundle import build_bundle
from snapensemble.export.config import ExportConfig
from snapensemble.server_process import server_process
from snapensemble.serving.inference.engine import load_engine
from snapensemble.trainer.run import train

CHOICES: tuple[tuple[str, Rule, int | None], ...] = (
    ("best 3", "best", 3),
    ("best 2", "best", 2),
    ("last 2", "last", 2),
    ("all", "all", None),
)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, metavar="RUN_DIR", help="measure this run")
    parser.add_argument("--name", default="pipeline-digits", help="of the result files")
    parser.add_argument("--images", type=int, default=2000, help="to POST, at most (2000)")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="snapensemble-bench-"))
    try:
        run_dir = args.run or train(demo_config(work / "run"))
        run = read_run(run_dir)
        ensembles = {
            name: measured(run_dir, work / name.replace(" ", "-"), rule, m)
            for name, rule, m in CHOICES
            if m is None or m <= len(run.snapshots)
        }
        http = ask(work / "best-3", args.images)
        figures = {
            "run": {
                "model": run.training.model,
                "batch_size": run.training.batch_size,
                "schedule": run.schedule.model_dump(),
            },
            "training_images_per_second": training_speed(run_dir, run),
            "ensembles": ensembles,
            "http": http,
        }
        save(args.name, figures, table(figures))
    finally:
        shutil.rmtree(work)


def measured(run_dir: Path, bundle_dir: Path, rule: Rule, m: int | None) -> dict[str, Any]:
    """Test figures of one choice of members."""
    config = ExportConfig(members=m, select=rule, report=False)
    build_bundle(run_dir, bundle_dir, config)
    figures = evaluate(bundle_dir)
    del figures["data"]  # a path of this machine
    return figures


def ask(bundle_dir: Path, count: int) -> dict[str, Any]:
    """POST test images one by one and compare each answer with the engine's in this process."""
    test = sample(bundle_data(read_bundle(bundle_dir)), count)
    with load_engine(bundle_dir) as engine:
        probs_MNK = engine.predict(test.images_NCHW)
        probs_NK = mean_probabilities(probs_MNK, engine.bundle.weights_M)
    pngs = [png(image_CHW) for image_CHW in test.images_NCHW]
    with (
        server_process(bundle_dir, "--port", "0") as (_, url),
        httpx.Client(base_url=url) as http,
    ):
        started = time.monotonic()
        answers = [http.post("/predict", content=data).raise_for_status().json() for data in pngs]
        seconds = time.monotonic() - started
    served_NK = np.array([answer["predictions"][0]["probabilities"] for answer in answers])
    served_N = served_NK.argmax(axis=1)
    return {
        "images": len(test),
        "accuracy": float((served_N == test.labels_N).mean()),
        "accuracy_in_process": float((probs_NK.argmax(axis=1) == test.labels_N).mean()),
        "images_answered_differently": int((served_N != probs_NK.argmax(axis=1)).sum()),
        "largest_probability_difference": float(np.abs(served_NK - probs_NK).max()),
        "requests_per_second_one_connection": len(test) / seconds,
    }


def png(image_CHW: NDArray[np.uint8]) -> bytes:
    """An image as a PNG file."""
    buffer = io.BytesIO()
    pixels = image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def training_speed(run_dir: Path, run: RunManifest) -> dict[str, float]:
    """Images per second of the epochs: minimum, median and maximum."""
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    images = run.schedule.steps_per_epoch * run.training.batch_size
    speeds = [images / line["seconds"] for line in lines if "seconds" in line]
    return {
        "minimum": min(speeds),
        "median": float(np.median(speeds)),
        "maximum": max(speeds),
        "epochs": len(speeds),
    }


def table(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row per figure that somebody may want to quote."""
    rows: list[tuple[str, ...]] = [("what", "accuracy", "NLL", "ECE", "Brier")]
    members = {m["name"]: m for e in figures["ensembles"].values() for m in e["members"]}
    named = [(f"member {name}", m) for name, m in sorted(members.items())]
    named += [(name, ensemble["ensemble"]) for name, ensemble in figures["ensembles"].items()]
    for name, row in named:
        values = [f"{row[column]:.4f}" for column in ("nll", "ece", "brier")]
        rows.append((name, f"{row['accuracy']:.2%}", *values))
    http, speed = figures["http"], figures["training_images_per_second"]
    rows.append(
        (f"best 3 over HTTP, {http['images']:,} images", f"{http['accuracy']:.2%}", "", "", "")
    )
    rows.append(
        (
            "the same images in process",
            f"{http['accuracy_in_process']:.2%}",
            f"{http['images_answered_differently']} answered differently",
            f"largest difference {http['largest_probability_difference']:.1e}",
            "",
        )
    )
    spread = f"{speed['minimum']:,.0f} to {speed['maximum']:,.0f}"
    rows.append(
        (
            "training, images/s",
            f"{speed['median']:,.0f}",
            f"{spread} over {speed['epochs']} epochs",
            "",
            "",
        )
    )
    return rows


if __name__ == "__main__":
    main()
