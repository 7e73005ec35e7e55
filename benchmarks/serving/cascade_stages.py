"""Which stage of a cascade should a free lane serve? See docs/decisions/0010.

    python -m benchmarks.serving.cascade_stages [--rounds 3] [--seconds 2.5]

ResNet-20 with random weights, images of random contrast, and a margin rule under which 30 %
of the images go on at each depth. The rules take turns, each in closed loops in this process.

Shapes: N images, C channels, H height, W width.
"""

import argparse
import asyncio
import time
from collections.abc import Callable, Sequence
from unittest import mock

import numpy as np
import uvloop
from numpy.typing import NDArray

import snapensemble.serving.inference.scheduler
from benchmarks.machine import save
from benchmarks.random_members import MEMBERS
from benchmarks.serving.random_cascade import fitted, member_calls, random_images
from snapensemble.bench.figures import Row, Usage, row
from snapensemble.bench.load import Answer, Sample, closed_loop
from snapensemble.contracts.cascade import Mode
from snapensemble.contracts.cpu import cpu_budget
from snapensemble.contracts.metrics import Floats
from snapensemble.serving.inference.batch import Stage, next_stage
from snapensemble.serving.inference.lanes import Lanes
from snapensemble.serving.inference.request import PendingImage
from snapensemble.serving.inference.scheduler import Scheduler

MAX_BATCH = 32
CLIENTS = (1, 8, 32)
Rule = Callable[[Sequence[Stage]], Stage | None]


def busy(stages: Sequence[Stage]) -> list[Stage]:
    """The stages in which images wait."""
    return [stage for stage in stages if stage.waiting]


def waited_s(stage: Stage, images: int) -> float:
    """How long the first so many images of a stage have waited, summed."""
    now = time.monotonic()
    return sum(
        now - image.times.accepted for image, _ in zip(stage.waiting, range(images), strict=False)
    )


def deepest(stages: Sequence[Stage]) -> Stage | None:
    """The stage nearest to its end."""
    return max(busy(stages), key=lambda stage: stage.members.start, default=None)


def fullest(stages: Sequence[Stage]) -> Stage | None:
    """The stage with the largest micro-batch; ties go to the deeper."""
    return max(
        busy(stages),
        key=lambda stage: (min(len(stage.waiting), MAX_BATCH), stage.members.start),
        default=None,
    )


def fullest_bounded(stages: Sequence[Stage]) -> Stage | None:
    """The stage of `fullest`, but no image that has begun waits above 100 ms for it."""
    first = next_stage(stages)
    if first is None or (first.members.start and waited_s(first, 1) > 0.1):
        return first
    return fullest(stages)


def most_waiting(stages: Sequence[Stage]) -> Stage | None:
    """The stage whose next micro-batch has waited longest, its images summed."""
    return max(busy(stages), key=lambda stage: waited_s(stage, MAX_BATCH), default=None)


RULES: dict[str, tuple[Mode, Rule]] = {
    "full mode": ("full", next_stage),
    "first accepted": ("cascade", next_stage),
    "deepest": ("cascade", deepest),
    "fullest, ties to the deeper": ("cascade", fullest),
    "fullest, none above 100 ms": ("cascade", fullest_bounded),
    "most waiting time together": ("cascade", most_waiting),
}


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns of each rule (3)")
    parser.add_argument("--seconds", type=float, default=2.5, help="of one turn (2.5)")
    parser.add_argument("--members", type=int, default=MEMBERS, help=f"of the cascade ({MEMBERS})")
    parser.add_argument("--images", type=int, default=1000, help="that are sent in turn (1000)")
    parser.add_argument("--name", default="cascade-stages", help="of the result files")
    args = parser.parse_args()
    members, images_NCHW = member_calls(args.members), random_images(args.images)
    leaves = fitted(members, images_NCHW).leaves
    found: dict[str, dict[int, list[Row]]] = {name: {c: [] for c in CLIENTS} for name in RULES}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for _ in range(args.rounds):
            for clients in CLIENTS:
                for name, (mode, rule) in RULES.items():
                    scheduler = Scheduler(
                        members,
                        lanes=Lanes(cpu_budget()),
                        max_batch_size=MAX_BATCH,
                        leaves=leaves,
                    )
                    turn = ask(scheduler, images_NCHW, mode, clients, args.seconds)
                    cpu_s = time.process_time()
                    with mock.patch.object(
                        snapensemble.serving.inference.scheduler, "next_stage", rule
                    ):
                        samples = runner.run(turn)
                    usage = Usage(cpu_seconds=time.process_time() - cpu_s)
                    found[name][clients].append(row(name, samples, usage, concurrency=clients))
    figures = {
        name: {c: [turn.as_json() for turn in turns] for c, turns in by_clients.items()}
        for name, by_clients in found.items()
    }
    save(args.name, figures, table(found))


async def ask(
    scheduler: Scheduler, images_NCHW: NDArray[np.uint8], mode: Mode, clients: int, seconds: float
) -> list[Sample]:
    """Samples of a closed loop of clients that each send one image at a time."""

    async def one(number: int) -> Answer:
        image = PendingImage(images_NCHW[number % len(images_NCHW)])
        scheduler.submit([image], mode)
        probs_dK: Floats = await asyncio.wrap_future(image.answer)
        return Answer(members_used=len(probs_dK))

    with scheduler:
        return await closed_loop(one, concurrency=clients, seconds=seconds)


def table(found: dict[str, dict[int, list[Row]]]) -> list[tuple[str, ...]]:
    """A row per rule; medians over the turns, and the slowest image of all."""
    head = [f"c={c}: images/s, p50, p99 ms, CPU ms/image" for c in CLIENTS]
    rows: list[tuple[str, ...]] = [("stage served", *head, f"c={CLIENTS[-1]}, slowest image, ms")]
    for name, by_clients in found.items():
        cells = []
        for turns in by_clients.values():
            latencies = [turn.latency_ms or {} for turn in turns]
            cells.append(
                f"{np.median([turn.images_per_second for turn in turns]):.0f}, "
                f"{np.median([ms['p50'] for ms in latencies]):.1f}, "
                f"{np.median([ms['p99'] for ms in latencies]):.1f}, "
                f"{np.median([(turn.cpu_seconds_per_image or 0) * 1000 for turn in turns]):.2f}"
            )
        cells.append(f"{max(ms['max'] for ms in latencies):.0f}")
        rows.append((name, *cells))
    return rows


if __name__ == "__main__":
    main()
