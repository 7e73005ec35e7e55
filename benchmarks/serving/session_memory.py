"""How much memory do sessions take when batches are of every size?

    python -m benchmarks.serving.session_memory          # three repetitions

Five ResNet-20 members with random weights, 3x32x32, are warmed up with 32 images and one, then
asked by two lanes about batches of random sizes up to 32. Each case has a process of its own:

    as served   the arena of each session, as `contracts.sessions` sets it up
    buckets     batches padded to 1, 2, 4, 8, 16 or 32 images, each size warmed, the largest first
    same        an arena that all share and that grows by what is asked for (kSameAsRequested)
    no arena    memory is asked for and given back at every run

The figures are resident MiB after warming, after half and all of the batches, and images/s.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import save
from snapensemble.contracts.pixels import ImageContract
from snapensemble.contracts.sessions import session_options

CASES = ("as served", "buckets", "same", "no arena")
LARGEST, MEMBERS, LANES = 32, 5, 2
IMAGE = ImageContract(channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.25,) * 3)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3, help="how many (3)")
    parser.add_argument("--batches", type=int, default=500, help="in each process (500)")
    parser.add_argument("--case", nargs=2, metavar=("CASE", "DIRECTORY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(*one_case(args.case[0], Path(args.case[1]), args.batches))
        return
    with tempfile.TemporaryDirectory() as directory:
        write_members(Path(directory))
        measured: dict[str, list[list[float]]] = {case: [] for case in CASES}
        for _ in range(args.repetitions):  # interleaved, so that a busy machine hurts all alike
            for case in CASES:
                measured[case].append(in_own_process(case, directory, args.batches))
    rows: list[tuple[str, ...]] = [("case", "MiB when warm", "after half", "after all", "images/s")]
    for case, runs in measured.items():
        columns = zip(*runs, strict=True)
        rows.append((case, *map(median_and_range, columns)))
    figures: dict[str, Any] = {"batches": args.batches, "largest": LARGEST, "measured": measured}
    save("session-memory", figures, rows)


def median_and_range(values: tuple[float, ...]) -> str:
    """Values as text for the table: the median and the range."""
    return f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"


def write_members(directory: Path) -> None:
    """Write the members' ONNX files, made by the exporter that makes bundles."""
    from benchmarks.random_members import random_members  # a case needs no torch

    for number, file in enumerate(random_members()):
        (directory / f"{number}.onnx").write_bytes(file)


def in_own_process(case: str, directory: str, batches: int) -> list[float]:
    """The figures of a case, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.serving.session_memory", "--batches", str(batches)]
    command += ["--case", case, directory]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def one_case(case: str, directory: Path, batches: int) -> tuple[float, ...]:
    """MiB when warm, after half and all of the batches, images per second."""
    import onnxruntime  # after contracts.sessions, which keeps it from sending usage events

    options = session_options()
    if case == "same":
        info = onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0,
            onnxruntime.OrtMemType.DEFAULT,
        )  # fmt: skip
        config = onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1})  # kSameAsRequested
        onnxruntime.create_and_register_allocator(info, config)
        options.add_session_config_entry("session.use_env_allocators", "1")
    options.enable_cpu_mem_arena = case != "no arena"
    sessions = [
        onnxruntime.InferenceSession(
            (directory / f"{seed}.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        for seed in range(MEMBERS)
    ]
    buckets = [2**power for power in range(LARGEST.bit_length())]
    rng = np.random.default_rng(0)

    def ask_all(size: int) -> None:
        if case == "buckets":
            size = next(bucket for bucket in buckets if bucket >= size)
        for session in sessions:
            session.run(["logits"], {"images": np.zeros((size, *IMAGE.shape), np.uint8)})

    for size in sorted(buckets if case == "buckets" else [1, LARGEST], reverse=True):
        ask_all(size)
    warm = resident_mib()
    sizes = rng.integers(1, LARGEST + 1, batches).tolist()
    started = time.perf_counter()
    with ThreadPoolExecutor(LANES) as lanes:
        held = []
        for half in (sizes[: batches // 2], sizes[batches // 2 :]):
            list(lanes.map(ask_all, half))
            held.append(resident_mib())
    return warm, *held, sum(sizes) / (time.perf_counter() - started)


def resident_mib() -> float:
    """The memory that this process holds now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1024


if __name__ == "__main__":
    main()
