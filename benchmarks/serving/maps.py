"""Do the outputs that explain answers cost anything where nobody asks for them?

    python -m benchmarks.serving.maps BUNDLE_DIR

The first member is run as it is and without the outputs more, in turns, on one thread: the logits
of both, and the logits with maps. Ratios are medians over turns, of processor time, to the member
without; a second run of that one shows the noise.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from benchmarks.machine import save
from snapensemble.contracts.bundle import MAPS, read_bundle
from snapensemble.contracts.files import read_verified
from snapensemble.contracts.sessions import open_session

BATCHES = (1, 8, 32)
WITHOUT, AGAIN, LOGITS, WITH_MAPS = "without", "without, again", "logits", "logits and maps"


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle_dir", type=Path, metavar="BUNDLE_DIR")
    parser.add_argument("--seconds", type=float, default=10, help="for each batch size (10)")
    args = parser.parse_args()
    bundle = read_bundle(args.bundle_dir)
    member = bundle.members[0]
    data = read_verified(args.bundle_dir, member.file, member.sha256, member.size)
    rng = np.random.default_rng(0)
    shape = bundle.image.shape if bundle.trunk is None else bundle.trunk.features
    rows: list[tuple[str, ...]] = [("batch", "ms", AGAIN, LOGITS, WITH_MAPS)]
    figures = {}
    for size in BATCHES:
        noise_B = rng.integers(0, 256, (size, *shape), dtype=np.uint8)
        inputs_B = noise_B if bundle.trunk is None else noise_B.astype(np.float32) / 255
        turns = {
            way: np.array(each)
            for way, each in in_turns(ways(data, inputs_B), args.seconds).items()
        }
        base = turns.pop(WITHOUT)
        ratios = {way: float(np.median(each / base)) for way, each in turns.items()}
        figures[str(size)] = {"ms": 1000 * float(np.median(base)), "turns": len(base), **ratios}
        rows.append(
            (str(size), f"{1000 * np.median(base):.3f}", *(f"{ratios[way]:.4f}" for way in turns))
        )
    model = {"model": bundle.model, "precision": member.precision}
    save(f"maps-{member.precision}", {**model, "batches": figures}, rows)


def ways(data: bytes, inputs_B: np.ndarray) -> dict[str, Callable[[], object]]:
    """What is compared, by name."""
    model = onnx.load_from_string(data)
    if MAPS not in [value.name for value in model.graph.output]:
        raise SystemExit("the first member gives no maps of its own; choose another bundle")
    del model.graph.output[1:]
    given, plain = open_session(data), open_session(model.SerializeToString())
    fed = {given.get_inputs()[0].name: inputs_B}
    return {
        WITHOUT: lambda: plain.run(["logits"], fed),
        AGAIN: lambda: plain.run(["logits"], fed),
        LOGITS: lambda: given.run(["logits"], fed),
        WITH_MAPS: lambda: given.run(["logits", MAPS], fed),
    }


def in_turns(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Processor seconds of each way, turn by turn, each turn in another order."""
    names, end = list(calls), time.monotonic() + seconds
    turns: dict[str, list[float]] = {name: [] for name in names}
    first = 0
    while time.monotonic() < end or not turns[names[0]]:
        for name in names[first:] + names[:first]:
            began = time.thread_time()
            calls[name]()
            turns[name].append(time.thread_time() - began)
        first = (first + 1) % len(names)
    return turns


if __name__ == "__main__":
    main()
