"""What does it cost to ask first what a picture costs?

    python -m benchmarks.serving.picture_cost --before COMMIT_DIR [--rounds 9]

Decodes ordinary pictures with this checkout and with another one, taking turns in one process.
COMMIT_DIR is a checkout of the commit to compare with (`git worktree add COMMIT_DIR COMMIT`), whose
`contracts/pixels.py` is loaded.
"""

import argparse
import importlib.util
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import save
from snapensemble.contracts.pictures.cost import picture_cost
from snapensemble.contracts.pixels import SERVER_LIMITS, decode_image

TARGET = 32  # pixels, height and width
SECONDS = 0.15  # of one measurement
Decode = Callable[..., Any]


def main() -> int:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, required=True, metavar="COMMIT_DIR")
    parser.add_argument("--rounds", type=int, default=9, help="per picture and checkout (9)")
    parser.add_argument("--name", default="picture-cost", help="of the results")
    args = parser.parse_args()
    before = decoder_of(args.before / "contracts" / "pixels.py")
    figures = {name: compare(before, data, args.rounds) for name, data in ordinary().items()}
    save(args.name, {"rounds": args.rounds, "pictures": figures}, table(figures))
    return 0


def decoder_of(file: Path) -> Decode:
    """`decode_image` of another checkout."""
    spec = importlib.util.spec_from_file_location("pixels_before", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    decode: Decode = module.decode_image
    return decode


def ordinary() -> dict[str, bytes]:
    """Pictures as people send them, by name."""
    return {
        "PNG 8x8": encoded(8, 8, "PNG"),
        "PNG 32x32": encoded(32, 32, "PNG"),
        "PNG 800x600": encoded(800, 600, "PNG"),
        "JPEG 500x375": encoded(500, 375, "JPEG", quality=85),
        "JPEG 4000x3000": encoded(4000, 3000, "JPEG", quality=85),
        "WebP 500x375": encoded(500, 375, "WEBP"),
    }


def encoded(width: int, height: int, kind: str, **options: Any) -> bytes:
    """A picture file of waves with a little noise."""
    y, x = np.mgrid[0:height, 0:width]
    rng = np.random.default_rng(0)
    waves = (np.sin(x / 50) + np.cos(y / 70))[..., None] * 50 + 128
    pixels = (waves + rng.normal(0, 4, (height, width, 3))).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def compare(before: Decode, data: bytes, rounds: int) -> dict[str, Any]:
    """Microseconds of processor time per picture, before and now, and of the scan alone."""

    def scan(data: bytes, **_: int) -> None:
        picture_cost(data, SERVER_LIMITS, width=TARGET, height=TARGET)

    ways: dict[str, Decode] = {"before": before, "now": decode_image, "scan": scan}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, decode in ways.items():
            seconds[name].append(per_call(decode, data))
    figures: dict[str, Any] = {name: [1e6 * s for s in found] for name, found in seconds.items()}
    ratios = [now / was for was, now in zip(seconds["before"], seconds["now"], strict=True)]
    estimate = picture_cost(data, SERVER_LIMITS, width=TARGET, height=TARGET)
    return {
        **figures,
        "ratio": median(ratios),
        "estimate_us": 1e6 * estimate.seconds,
        "memory_bytes": estimate.memory,
    }


def per_call(decode: Decode, data: bytes) -> float:
    """Seconds of processor time that one call takes."""
    count, began = 0, time.process_time()
    while True:
        decode(data, channels=3, height=TARGET, width=TARGET)
        count += 1
        spent = time.process_time() - began
        if spent > SECONDS:
            return spent / count


def table(figures: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """A row per picture; medians."""
    rows: list[tuple[str, ...]] = [("picture", "before, us", "now, us", "now/before", "scan, us")]
    for name, one in figures.items():
        before, now, scan = (f"{median(one[key]):,.0f}" for key in ("before", "now", "scan"))
        rows.append((name, before, now, f"{one['ratio']:.3f}", scan))
    return rows


if __name__ == "__main__":
    sys.exit(main())
