"""How long should a server remember how its predictions came out? A simulation, without a server.

    python -m benchmarks.serving.forecast

A queue of images is kept as long as predictions allow, for a minute of simulated time, while the
rate at which it is served wanders as on a shared machine. What do accepted images wait?
"""

import argparse
import math
from collections import deque

import numpy as np

from benchmarks.machine import save, spread
from snapensemble.serving.inference.admission import MEMORY, Forecast
from snapensemble.serving.inference.batch import Load

MEMORIES = (8, 16, 32, 64, 128)  # micro-batches
SEEDS = range(5)
MAX_WAIT_S = 1.0
RATE = 540.0  # images per second
BATCH = 16  # images
WANDERS = 0.12  # standard deviation of the rate's logarithm
FORGETS_S = 1.0  # how fast it wanders
SHAKES = 0.1  # standard deviation of the logarithm of a micro-batch's own time
SECONDS = 60.0
LEFT_OUT = 1500  # images, while nothing is known yet


def main() -> None:
    """Simulate, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", default="forecast", help="of the results (forecast)")
    args = parser.parse_args()
    found = {memory: [waits(memory, seed) for seed in SEEDS] for memory in MEMORIES}
    rows: list[tuple[str, ...]] = [("micro-batches remembered", "p50 of the wait", "p99")]
    for memory, runs in found.items():
        columns = (spread([run[q] / MAX_WAIT_S for run in runs], ".2f") for q in ("p50", "p99"))
        rows.append((f"{memory}{' (the server)' if memory == MEMORY else ''}", *columns))
    save(args.name, {"max_wait_s": MAX_WAIT_S, "found": found}, rows)


def waits(memory: int, seed: int) -> dict[str, float]:
    """Percentiles of the seconds that accepted images waited."""
    rng = np.random.default_rng(seed)
    forecast, load = Forecast(MAX_WAIT_S, memory=memory), Load()
    load.measured(BATCH / RATE, BATCH)
    queue: deque[tuple[float, float]] = deque()  # when each image came, and its predicted wait
    waited: list[float] = []
    now = log_rate = 0.0
    while now < SECONDS:
        while forecast.corrected(load.wait_s) <= MAX_WAIT_S:
            queue.append((now, load.wait_s))
            load.unanswered += 1
        batch_s = BATCH / RATE * math.exp(-log_rate) * rng.lognormal(0, SHAKES)
        kept = math.exp(-batch_s / FORGETS_S)
        log_rate = kept * log_rate + WANDERS * math.sqrt(1 - kept**2) * rng.normal()
        now += batch_s
        answered = [queue.popleft() for _ in range(min(BATCH, len(queue)))]
        waited += [now - came for came, _ in answered]
        came, predicted_s = answered[0]
        forecast.came_out(predicted_s, now - came)
        load.unanswered -= len(answered)
        load.measured(batch_s, len(answered))
    p50, p99 = np.percentile(waited[LEFT_OUT:], [50, 99])
    return {"p50": float(p50), "p99": float(p99)}


if __name__ == "__main__":
    main()
