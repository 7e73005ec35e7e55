"""Several processes train in one run: torchrun, DistributedDataParallel, gloo or NCCL.

Every process holds the whole data set and the same random numbers; of each global batch it trains
on its own part. Process 0, the leader, writes.
"""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from snapensemble.contracts.errors import InvalidConfig, SnapensembleError

LEADER_DONE = "leader-done"
# Process groups that are over, kept until the process ends. The last to free one waits for its
# thread and holds the interpreter's lock meanwhile; the thread may wait for that lock, for ever.
_over: list[Any] = []


class ProcessLost(SnapensembleError):
    """Another process of the run has ended; the last checkpoint is whole."""


@dataclass(frozen=True, slots=True)
class World:
    """The processes that train together: this one's number, and how many there are."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    store: Any = None  # torch.distributed's, where the processes leave each other messages

    @property
    def leads(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over the processes; alone, the model itself."""
        if self.size == 1:
            return model
        with warnings.catch_warnings():
            # The newer name of `broadcast_buffers` is unknown to versions that this runs on too.
            warnings.simplefilter("ignore", FutureWarning)
            # Running statistics are averaged before they are used, not sent at each step.
            return DistributedDataParallel(model, broadcast_buffers=False)

    def share(self, count: int) -> slice:
        """This process's part of `count` rows; all parts are as equal as can be."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.size
        return value

    def average_batch_norm(self, model: nn.Module) -> None:
        """Give every process the mean of all running means and variances; each saw its own part.

        The variances' mean leaves out how far the processes' means lie apart, which is little
        where each sees thousands of images before.
        """
        for module in model.modules() if self.size > 1 else ():
            if (
                isinstance(module, nn.modules.batchnorm._BatchNorm)
                and module.running_mean is not None
            ):
                for statistic in (module.running_mean, module.running_var):
                    assert statistic is not None
                    statistic.copy_(self.mean(statistic))

    def gathered(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """The rows of all processes, in the order of their numbers."""
        if self.size == 1:
            return rows
        parts: list[NDArray[np.float32]] = [rows] * self.size
        dist.all_gather_object(parts, rows)
        return np.concatenate(parts)

    def largest(self, value: int) -> int:
        """The largest value that any process has."""
        if self.size == 1:
            return value
        values = torch.tensor([value], device=self.device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return int(values.item())

    def meet(self) -> None:
        """Wait until all processes have come here."""
        if self.size > 1:
            dist.barrier()

    def refuse_other_steps(self, step: int) -> None:
        """Raise InvalidConfig unless all processes go on from the same step."""
        latest, earliest = self.largest(step), -self.largest(-step)
        if latest != earliest:
            raise InvalidConfig(
                f"the processes go on from different steps, {earliest} to {latest}: all of them "
                "must see the same run directory"
            )

    @contextmanager
    def leader_first(self, block: str) -> Iterator[None]:
        """Run the block in process 0 first, then in the others: they find what it has made.

        Each block needs a name of its own.

        The others wait however long it takes, where a barrier would time out.

        Raises:
            ProcessLost: process 0 has failed in the block.
        """
        key = f"{LEADER_DONE}-{block}"
        if self.size > 1 and not self.leads:
            self.store.wait([key], timedelta(days=7))
            if failure := self.store.get(key).decode():
                raise ProcessLost(f"process 0 has ended: {failure}")
        failure = ""
        try:
            yield
        except BaseException as error:
            failure = str(error) or type(error).__name__
            raise
        finally:
            if self.size > 1 and self.leads:
                self.store.set(key, failure)


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """The world that torchrun has started, or this process alone.

    Raises:
        ProcessLost: another process has ended while this one waited for it.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    lost = None
    try:
        store, rank, size = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
        # torchrun keeps one store over restarts, with the addresses of processes that are gone.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        ours = dist.PrefixStore(f"attempt-{attempt}", store)  # type: ignore[attr-defined]
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=ours, rank=rank, world_size=size)
        _over.append(dist.group.WORLD)
        yield World(rank, size, device, ours)
        dist.barrier()
    except (dist.DistError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError) or not _connection_lost(error):
            raise
        lost = ProcessLost(
            f"another process of this run has ended ({str(error).splitlines()[0][:160]})"
        )
        for note in getattr(error, "__notes__", []):
            lost.add_note(note)
        raise lost from error
    finally:
        # It could wait for a process that is lost; the end of this one cleans up as well.
        if lost is None and dist.is_initialized():
            dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End this process; where it is one of several, without the interpreter's own shutdown.

    A process that had trained to the end was seen to abort while the interpreter came down
    ("terminate called without an active exception", a thread of torch's): a failure to torchrun.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def local_device(name: str) -> str:
    """Under torchrun each process takes the GPU of its local number, unless one is named."""
    rank = os.environ.get("LOCAL_RANK")
    if name.startswith("cuda:") and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        raise InvalidConfig(f"several processes cannot share {name}; give --device cuda")
    if rank is None or name not in ("auto", "cuda") or not torch.cuda.is_available():
        return name
    if int(rank) >= torch.cuda.device_count():
        raise InvalidConfig(
            f"process {rank} has no GPU: this machine has {torch.cuda.device_count()}; "
            "start fewer processes, or give --device cpu"
        )
    return f"cuda:{rank}"


def threads_here(budget: int) -> int:
    """Threads for one process: the machine's processors divided among its processes, at least 1."""
    return max(1, budget // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _connection_lost(error: BaseException) -> bool:
    signs = ("closed by peer", "reset by peer", "connectFullMesh", "Broken pipe", "timed out")
    return isinstance(error, dist.DistNetworkError) or any(sign in str(error) for sign in signs)
