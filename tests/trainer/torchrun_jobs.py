"""What the tests of several processes start under torchrun: `torchrun_jobs.py JOB FLAG...`."""

import gc
import os
import signal
import sys
import weakref
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn

import snapensemble.trainer.torchrun
from snapensemble.contracts.errors import InvalidConfig, InvalidData
from snapensemble.trainer.distributed import ProcessLost, joined, leave
from snapensemble.trainer.models.layers import Backbone
from snapensemble.trainer.models.registry import MODELS, Network


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
        assert norm.running_mean is not None
        assert torch.allclose(norm.running_mean, torch.full((2,), 0.05))
        assert world.largest(world.rank * 15) == 15
        world.refuse_other_steps(7)
        try:
            world.refuse_other_steps(world.rank)
        except InvalidConfig as error:
            assert "from different steps, 0 to 1" in str(error)
        else:
            raise AssertionError("steps 0 and 1 are not the same")
    return 0


def leader_first() -> int:
    """Process 1 finds what process 0 has left, or hears why there is nothing."""
    file = Path(sys.argv[1])
    with joined(torch.device("cpu")) as world, world.leader_first("file"):
        if world.leads:
            file.write_text("made")
        assert file.read_text() == "made"
    return 0


def leader_fails() -> int:
    """Process 1 hears why process 0 has failed."""
    with joined(torch.device("cpu")) as world:
        try:
            with world.leader_first("file"):
                raise InvalidData("no images there")
        except InvalidData:
            assert world.leads
        except ProcessLost as error:
            assert str(error) == "process 0 has ended: no images there"
    return 0


def group_is_kept() -> int:
    """Nobody frees the processes' group before they end, also where nobody refers to it."""
    with joined(torch.device("cpu")):
        group = weakref.ref(torch.distributed.group.WORLD)
    gc.collect()
    assert not torch.distributed.is_initialized() and group() is not None
    return 0


def training_with_a_signal_to_one() -> int:
    """Process 1 alone gets SIGTERM in its 10th step."""
    if os.environ["RANK"] == "1":
        signal_in_step(10, signal.SIGTERM)
    return training()


def training() -> int:
    """`python -m snapensemble.trainer`, with a network `bare` that has no batch normalisation."""
    MODELS["bare"] = Network(
        lambda channels: Backbone([nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)], 8)
    )
    return snapensemble.trainer.torchrun.main()


def training_with_a_death() -> int:
    """The same training, in which process 1 dies in its 40th step, unless it was restarted."""
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        signal_in_step(40, signal.SIGKILL)
    return training()


def signal_in_step(number: int, signum: signal.Signals) -> None:
    """Send this process a signal where it averages the loss of a step."""
    from snapensemble.trainer.distributed import World

    real, steps = World.mean, []

    def mean(self: World, value: torch.Tensor) -> torch.Tensor:
        steps.append(value)
        if len(steps) == number:
            os.kill(os.getpid(), signum)
        return real(self, value)

    mock.patch.object(World, "mean", mean).start()


if __name__ == "__main__":
    jobs = {"death": training_with_a_death}
    leave(jobs[sys.argv.pop(1)]())
