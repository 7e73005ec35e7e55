"""Averages of the weights along a cycle: networks that cost one member and one training run.

Both begin anew with each cycle, since a restart leaves the region that the weights before it were
in. `ema` weighs step k of a cycle by k to the power gamma, the power function EMA of Karras et al.
2024 (arXiv:2312.02696, equation 2): its width is a fixed share of the cycle, however long that is.
`tail` weighs the updates of the cycle's last part alike (SWA, Izmailov et al. 2018,
arXiv:1803.05407). A soup weighs the last weights of several cycles alike (Wortsman et al. 2022,
arXiv:2203.05482); whether they lie close enough for that is for validation to say. The statistics
of batch normalisation are measured anew for averaged weights (SWA, section 3.2).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, update_bn

from snapensemble.contracts.run import Weights

# gamma of a profile whose standard deviation is a tenth of the cycle (equation 3 of Karras et al.)
GAMMA = 6.94
TAIL = 0.25  # share of the cycle
MAX_SOUP = 5  # cycles


class CycleAverages:
    """The two running averages of a network's weights in the cycle that is being trained.

    Args:
        model: the network; each average is a copy of it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._ema = AveragedModel(model, multi_avg_fn=power_ema)
        self._tail = AveragedModel(model, multi_avg_fn=equal_average)

    def update(self, model: nn.Module, done: int, length: int) -> None:
        """Take in the weights after an update.

        Args:
            model: the network as the update has left it.
            done: updates of the cycle so far, this one included.
            length: of the cycle, in updates.
        """
        if done == 1:
            _begin(self._ema)
            _begin(self._tail)
        self._ema.update_parameters(model)
        if done > (1 - TAIL) * length:
            self._tail.update_parameters(model)

    def networks(self) -> dict[Weights, nn.Module]:
        """The two averaged networks, as the next update will find them."""
        return {"ema": self._ema.module, "tail": self._tail.module}

    def state_dict(self) -> dict[str, Any]:
        """The averages as tensors, for a checkpoint."""
        return {"ema": self._ema.state_dict(), "tail": self._tail.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the averages of a checkpoint back."""
        self._ema.load_state_dict(state["ema"])
        self._tail.load_state_dict(state["tail"])


def power_ema(
    averages: Sequence[Tensor], currents: Sequence[Tensor], averaged: Tensor | int
) -> None:
    """Move the averages towards the current weights, in place.

    By 1 - beta_t with beta_t = (1 - 1/t)^(gamma + 1), where t counts the updates with this one.
    """
    _move(averages, currents, 1 - (1 - 1 / (averaged + 1)) ** (GAMMA + 1))


def equal_average(
    averages: Sequence[Tensor], currents: Sequence[Tensor], averaged: Tensor | int
) -> None:
    """Move the averages, in place, to the mean of all weights so far and the current ones."""
    _move(averages, currents, 1 / (averaged + 1))


def soups(
    model: nn.Module, cycle: int, earlier: Callable[[int], dict[str, Tensor]]
) -> Iterator[tuple[int, nn.Module]]:
    """Networks with the mean of the last weights of the latest 2, 3, ... cycles, 5 at most.

    Args:
        model: as the cycle has left it.
        cycle: its number, from 0.
        earlier: gives the last weights of an earlier cycle by name.

    Yields:
        How many cycles, and the network; the next one changes it.
    """
    soup = AveragedModel(model, multi_avg_fn=equal_average)
    soup.update_parameters(model)
    other = deepcopy(model)
    for count in range(2, min(cycle + 1, MAX_SOUP) + 1):
        other.load_state_dict(earlier(cycle + 1 - count))
        soup.update_parameters(other)
        yield count, soup.module


def measure_batch_norm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace running statistics by their mean over the batches, which the network takes."""
    update_bn(batches, model)


def keep_statistics(model: nn.Module) -> None:
    """Let batch normalisation use, and not change, its statistics, until `train` is called."""
    for norm in _batch_norms(model):
        norm.eval()


def keeps_statistics(model: nn.Module) -> bool:
    """Whether batch normalisation keeps its statistics in this network, which is trained."""
    return not any(norm.training for norm in _batch_norms(model))


def _batch_norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def _begin(average: AveragedModel) -> None:
    """Forget what was averaged: the next update copies the weights."""
    average.n_averaged.zero_()


@torch.no_grad()
def _move(averages: Sequence[Tensor], currents: Sequence[Tensor], share: Tensor | float) -> None:
    # A share that is a tensor stays on its device: no update waits for it.
    for average, current in zip(averages, currents, strict=True):
        average.lerp_(current, share)
