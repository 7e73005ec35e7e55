"""How much memory does a training run take at its peak?

    python -m benchmarks.training.memory --data cifar10:DIR

Trains in a process of its own, through loading, an epoch's steps, a validation and a snapshot, and
asks the system for that process's peak of resident memory.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import save
from snapensemble.contracts.cpu import cpu_budget
from snapensemble.contracts.run import read_run


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, metavar="SPEC")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--name", default="training-memory", help="of the result files")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="snapensemble-bench-") as work:
        run_dir = Path(work) / "run"
        command = [sys.executable, "-m", "snapensemble.cli", "train", "--data", args.data]
        command += ["--model", args.model, "--batch-size", str(args.batch_size)]
        command += ["--cycles", "1", "--cycle-epochs", "1", "--out", str(run_dir)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        run = read_run(run_dir)
    # Linux gives KiB, of the largest child that has ended, and there was only one.
    peak_gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    figures = {
        "data": args.data.partition(":")[0],
        "model": args.model,
        "batch_size": args.batch_size,
        "train_images": run.data.train_images,
        "threads": cpu_budget(),
        "peak_gib": peak_gib,
    }
    row = (args.model, f"{run.data.train_images:,}", str(args.batch_size), f"{peak_gib:.2f} GiB")
    save(args.name, figures, [("network", "training images", "batch", "peak memory"), row])


if __name__ == "__main__":
    main()
