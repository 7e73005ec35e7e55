"""What the tests of several processes start under torchrun: `torchrun_jobs.py JOB FLAG...`."""

import os
import signal
import sys

import numpy as np
import torch
from torch import nn

import trainer.__main__
from trainer.distributed import joined
from trainer.layers import Trunk
from trainer.models import MODELS, Network
from trainer.progress import MetricsFile


def arithmetic() -> int:
    """What a World computes from two processes."""
    with joined(torch.device("cpu")) as world:
        mine = torch.tensor([float(world.rank)])
        assert world.mean(mine).item() == 0.5 and mine.item() == world.rank
        shares = [range(7)[world.share(7)], range(1)[world.share(1)]]
        assert [len(share) for share in shares] == [[3, 0], [4, 1]][world.rank]
        rows = np.full((world.rank + 1, 2), world.rank, np.float32)
        assert world.gathered(rows).tolist() == [[0, 0], [1, 1], [1, 1]]
        norm = nn.BatchNorm2d(2)
        norm(torch.full((4, 2, 3, 3), float(world.rank)))  # momentum 0.1: 0.1 in process 1
        world.average_batch_norm(norm)
        assert torch.allclose(norm.running_mean, torch.full((2,), 0.05))
        with world.leader_first():
            order = [world.rank]
        assert order == [world.rank]
    return 0


def training() -> int:
    """`python -m trainer`, with a network without batch normalisation under the name `bare`."""
    MODELS["bare"] = Network(
        lambda channels: Trunk([nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)], 8)
    )
    return trainer.__main__.main()


def training_with_a_death() -> int:
    """Likewise; process 1 dies in its first life, in the 40th step."""
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        die_in_step(40)
    return training()


def die_in_step(number: int) -> None:
    """Kill this process where it averages the loss of a step."""
    from trainer.distributed import World

    real, steps = World.mean, []

    def mean(self: World, value: torch.Tensor) -> torch.Tensor:
        steps.append(value)
        if len(steps) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, value)

    World.mean = mean  # type: ignore[method-assign]


if __name__ == "__main__":
    job = sys.argv.pop(1)
    assert MetricsFile  # imported before a process may die
    sys.exit({"arithmetic": arithmetic, "train": training, "death": training_with_a_death}[job]())
