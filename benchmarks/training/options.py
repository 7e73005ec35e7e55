"""What makes training on a CPU faster: memory layout, threads, allocator, denormals, compiling?

    python -m benchmarks.training.options
    python -m benchmarks.training.options --jemalloc /usr/lib/x86_64-linux-gnu/libjemalloc.so.2

Each variant differs from how `train` does it in one thing. Every measurement is a process of its
own, since allocators are chosen at its start; the variants take turns. The images are random, since
the speed does not depend on them.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from benchmarks.machine import save
from snapensemble.contracts.cpu import cpu_budget
from snapensemble.contracts.pixels import ImageContract
from snapensemble.trainer.models.registry import build_model

AS_IT_IS = "as train does it"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def main() -> None:
    """Measure, print and save; or be one of the measured processes."""
    args = _arguments()
    if args.variant is not None:
        print(json.dumps(measured(args)))
        return
    variants = [AS_IT_IS, "NCHW", "optimizer not fused", "1 thread", "denormals flushed"]
    variants += ["glibc keeps its memory", "huge pages"]
    variants += ["jemalloc"] if args.jemalloc else []
    variants += ["bf16 autocast", "compiled"]
    found: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(args.rounds):
        for name in variants:
            found[name].append(in_a_process(args, name))
    rows: list[tuple[str, ...]] = [("training", "images/s, median", "least to most", "ratio")]
    base = np.array(found[AS_IT_IS])
    for name, values in found.items():
        ratios = np.array(values) / base
        ratio = f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
        spread = f"{min(values):.0f} to {max(values):.0f}"
        rows.append((name, f"{np.median(values):.0f}", spread, "" if name == AS_IT_IS else ratio))
    settings = {k: v for k, v in vars(args).items() if k not in ("jemalloc", "variant")}
    save(args.name, {"settings": settings, "images_per_second": found}, rows)


def in_a_process(args: argparse.Namespace, variant: str) -> float:
    """Images per second of a variant in a process of its own."""
    environment = dict(os.environ)
    if variant == "huge pages":
        environment["THP_MEM_ALLOC_ENABLE"] = "1"
    if variant == "jemalloc":
        environment["LD_PRELOAD"] = args.jemalloc
    command = [sys.executable, "-m", "benchmarks.training.options", "--variant", variant]
    for name in ("model", "batch_size", "steps", "threads"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def measured(args: argparse.Namespace) -> float:
    """Images per second in this process, after a few steps to warm up."""
    variant = args.variant
    if variant == "glibc keeps its memory":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    if variant == "denormals flushed":
        torch.set_flush_denormal(True)
    torch.set_num_threads(1 if variant == "1 thread" else args.threads)
    image = ImageContract(channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    torch.manual_seed(0)
    model: Any = build_model(args.model, 10, image).train()
    if variant != "NCHW":
        model = model.to(memory_format=torch.channels_last)
    fused = variant != "optimizer not fused"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)
    network = torch.compile(model) if variant == "compiled" else model
    shape = (args.batch_size, *image.shape)
    images_BCHW = torch.randint(0, 256, shape, dtype=torch.uint8)
    labels_B = torch.randint(0, 10, (args.batch_size,))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=variant == "bf16 autocast"):
            logits_BK = network(images_BCHW)
        loss = cross_entropy(logits_BK.float(), labels_B)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        loss.item()

    for _ in range(3):
        step()
    started = time.perf_counter()
    for _ in range(args.steps):
        step()
    return float(args.steps * args.batch_size / (time.perf_counter() - started))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=cpu_budget())
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jemalloc", metavar="LIBRARY", help="measure with this library too")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--name", default="training-options", help="of the result files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
