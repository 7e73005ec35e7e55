"""Averages of the weights along a cycle: networks that cost one member and one training run.

Both begin anew with each cycle, since a restart leaves the region that the weights before it were
in. `ema` weighs step k of a cycle by k to the power gamma, the power function EMA of Karras et al.
2024 (arXiv:2312.02696, equation 2): its width is a fixed share of the cycle, however long that is.
`tail` weighs the updates of the cycle's last part alike (SWA, Izmailov et al. 2018,
arXiv:1803.05407). A soup weighs the last weights of several cycles alike (Wortsman et al. 2022,
arXiv:2203.05482); whether they lie close enough for that is for validation to say. The statistics
of batch normalisation are measured anew for averaged weights (SWA, section 3.2).
"""

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from snapensemble.contracts.run import Weights

# gamma of a profile whose standard deviation is a tenth of the cycle (equation 3 of Karras et al.)
GAMMA = 6.94
TAIL = 0.25  # share of the cycle
MAX_SOUP = 5  # cycles
PREFIX = "module."  # of the names in a checkpoint


class CycleAverages:
    """The two running averages of a network's weights in the cycle that is being trained.

    Args:
        model: the network; each average is a copy of it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._networks: dict[Weights, nn.Module] = {"ema": deepcopy(model), "tail": deepcopy(model)}

    def update(self, model: nn.Module, done: int, length: int) -> None:
        """Take in the weights after an update.

        Args:
            model: the network as the update has left it.
            done: updates of the cycle so far, this one included.
            length: of the cycle, in updates.
        """
        _move(self._networks["ema"], model, power_share(done))
        if (in_tail := done - int((1 - TAIL) * length)) > 0:
            _move(self._networks["tail"], model, 1 / in_tail)

    def networks(self) -> dict[Weights, nn.Module]:
        """The two averaged networks, as the next update will find them."""
        return self._networks

    def state_dict(self) -> dict[str, Any]:
        """The averages as tensors, for a checkpoint."""
        return {kind: network.state_dict(prefix=PREFIX) for kind, network in self._networks.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the averages of a checkpoint back; versions up to 0.1 kept counts with them."""
        for kind, network in self._networks.items():
            tensors = {
                name.removeprefix(PREFIX): tensor
                for name, tensor in state[kind].items()
                if name.startswith(PREFIX)
            }
            network.load_state_dict(tensors)


def power_share(done: int) -> float:
    """How far an update moves the power function EMA towards its weights.

    That is 1 - beta_t with beta_t = (1 - 1/t)^(gamma + 1): all of the way at a cycle's first one.

    Args:
        done: t, the updates of the cycle with this one.
    """
    return float(1 - (1 - 1 / done) ** (GAMMA + 1))


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
    soup = deepcopy(model)
    other = deepcopy(model)
    for count in range(2, min(cycle + 1, MAX_SOUP) + 1):
        other.load_state_dict(earlier(cycle + 1 - count))
        _move(soup, other, 1 / count)
        yield count, soup


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


@torch.no_grad()
def _move(average: nn.Module, current: nn.Module, share: float) -> None:
    """Move the parameters of an average by a share of the way to the current ones, in place.

    Its buffers become the current ones: statistics that training keeps are not measured anew.
    """
    for mine, theirs in zip(average.parameters(), current.parameters(), strict=True):
        mine.lerp_(theirs, share)
    for kept, now in zip(average.buffers(), current.buffers(), strict=True):
        kept.copy_(now)
