"""How large is the image, how fast does it start, and what does a container hold?

    python -m benchmarks.serving.container    # five repetitions; needs a container engine

Five ResNet-20 members with random weights, 3x32x32, one 32x32 PNG per request, in a hardened
container of 512 MiB and one processor. Measured are the time from `docker run` to the line that
says that the port is open, and the server's resident memory: then, after 10 s of 32 clients, and
at most when 32 clients send the costliest pictures that the image's settings take. Then two such
containers stand behind nginx for a minute, one of which is stopped and started again and again.
"""

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.containers.behind_nginx import CLIENTS, DRAIN_SECONDS, soak
from benchmarks.containers.engine import ENGINE, engine, served
from benchmarks.containers.load import clients
from benchmarks.machine import save, spread
from benchmarks.random_members import PICTURES, random_bundle
from benchmarks.serving.hostile import costliest

BASE = "python:3.11-slim-bookworm"
COSTLY = 20  # answers
TAG = "snapensemble-serving-bench"


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5, help="how many (5)")
    parser.add_argument("--seconds", type=float, default=10, help="of load each time (10)")
    parser.add_argument("--soak-seconds", type=float, default=60, help="behind nginx (60)")
    args = parser.parse_args()
    subprocess.run(["make", "image"], env=os.environ | {"IMAGE": TAG}, check=True)  # noqa: S607
    with tempfile.TemporaryDirectory() as work:
        Path(work).chmod(0o755)
        bundle_dir = random_bundle(Path(work) / "bundle")
        runs = [one_container(bundle_dir, args.seconds) for _ in range(args.repetitions)]
        found = soak(TAG, bundle_dir, Path(work), PICTURES, seconds=args.soak_seconds)
    size, base = (int(engine("image", "inspect", "-f", "{{.Size}}", i)) for i in (TAG, BASE))
    latencies = found.outcome.seconds
    behind_nginx = {
        "seconds": found.seconds,
        "restarts": found.restarts,
        "clients": CLIENTS,
        "drain_seconds": DRAIN_SECONDS,
        "counts": dict(found.outcome.counts),
        "p50_ms": 1000 * float(np.quantile(latencies, 0.5)),
        "p99_ms": 1000 * float(np.quantile(latencies, 0.99)),
        "max_ms": 1000 * max(latencies),
    }
    figures = {
        "engine": f"{ENGINE} {engine('version', '--format', '{{.Server.Version}}')}",
        "image_bytes": size,
        "above_base_bytes": size - base,
        "containers": runs,
        "behind_nginx": behind_nginx,
    }
    save("container", figures, table(figures))


def one_container(bundle_dir: Path, seconds: float) -> dict[str, float]:
    """The figures of a container from its start to its end."""
    with served(TAG, bundle_dir) as container:
        at_rest = container.resident_mib()
        started = time.monotonic()
        with clients(container.url, PICTURES, number=32) as outcome:
            time.sleep(seconds)
            under_load = container.resident_mib()
        seconds = time.monotonic() - started
        assert not outcome.lost, outcome.lost
        with clients(container.url, costliest(), number=32) as costly:
            while costly.answered < COSTLY:
                assert container.inspect("{{.State.Running}}") == "true"
        return {
            "start_s": container.seconds_to_serve,
            "at_rest_mib": at_rest,
            "under_load_mib": under_load,
            "at_most_mib": container.resident_mib(most=True),
            "images_per_s": outcome.answered / seconds,
        }


def table(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """What a person reads."""
    runs, nginx = figures["containers"], figures["behind_nginx"]
    total = sum(nginx["counts"].values())

    def of(name: str, form: str) -> str:
        return spread([run[name] for run in runs], form)

    return [
        ("figure", f"median (least to most) of {len(runs)}"),
        ("image above its base, MB", f"{figures['above_base_bytes'] / 1e6:.0f}"),
        ("from `docker run` to an open port, s", of("start_s", ".2f")),
        ("resident at rest, MiB", of("at_rest_mib", ".0f")),
        ("resident under load, MiB", of("under_load_mib", ".0f")),
        ("resident at most, costliest pictures, MiB", of("at_most_mib", ".0f")),
        ("images/s on one processor, 32 clients", of("images_per_s", ".0f")),
        (
            f"two behind nginx, {nginx['restarts']} restarts of one in {nginx['seconds']:.0f} s",
            f"{total - nginx['counts'].get('200', 0)} of {total} requests failed",
        ),
        (
            "latency meanwhile, p50, p99, most, ms",
            f"{nginx['p50_ms']:.0f}, {nginx['p99_ms']:.0f}, {nginx['max_ms']:.0f}",
        ),
    ]


if __name__ == "__main__":
    main()
