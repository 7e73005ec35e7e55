"""SGD with Nesterov momentum, and its form that learns its own rate."""

import re
import sys
from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.schedules import Hypergradient, Schedule

STAGE = re.compile(r"features\.([0-9]+)\.")  # of a parameter's name


class HypergradientSgd(torch.optim.SGD):
    """SGD whose rate descends its hypergradient (Baydin et al. 2018, arXiv:1703.04782).

    With the gradient g_t (weight decay included) and the direction of the update before,
    d_{t-1} = g_{t-1} (SGD-HD, algorithm 4) or g_{t-1} + mu v_{t-1} (SGDN-HD, its Nesterov form,
    algorithm 5), the rate moves before the weights do:

        additive rule:        alpha_t = alpha_{t-1} + beta g_t . d_{t-1}
        multiplicative rule:  alpha_t = alpha_{t-1} (1 + beta g_t . d_{t-1} / (|g_t| |d_{t-1}|))

    Other than in the paper the rate is kept within [0, eta_max], and a hypergradient that is
    infinite or not a number leaves it as it is. All parameters share one rate.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        hypergradient: Hypergradient,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        fused: bool = False,
    ) -> None:
        super().__init__(
            parameters,
            lr=hypergradient.eta_start,
            momentum=momentum,
            nesterov=momentum > 0,
            weight_decay=weight_decay,
            fused=fused,
        )
        self.hypergradient = hypergradient

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the rate, then the weights as plain SGD does at that rate."""
        (group,) = self.param_groups
        decay, momentum = group["weight_decay"], group["momentum"]
        parameters = [p for p in group["params"] if p.grad is not None]
        gradients = [p.grad.float() + decay * p.float() for p in parameters]
        directions = [self.state[p].get("direction") for p in parameters]
        if all(direction is not None for direction in directions):
            group["lr"] = self.moved_rate(group["lr"], gradients, directions)
        super().step(closure)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            state = self.state[parameter]
            if momentum:
                gradient.add_(state["momentum_buffer"], alpha=momentum)
            state["direction"] = gradient

    def moved_rate(self, alpha: float, gradients: list[Tensor], directions: list[Tensor]) -> float:
        """alpha_t from alpha_{t-1}; the products are computed in float32."""
        rule = self.hypergradient
        descent = _dot(gradients, directions)
        if rule.rule == "additive":
            moved = alpha + rule.beta * descent
        else:
            norms = (_dot(gradients, gradients) * _dot(directions, directions)) ** 0.5
            moved = alpha * (1 + rule.beta * descent / norms) if norms else alpha
        return min(max(moved, 0.0), rule.eta_max) if isfinite(moved) else alpha


def build_optimizer(
    model: nn.Module, config: TrainConfig, schedule: Schedule, device: torch.device
) -> torch.optim.Optimizer:
    """SGD with the config's momentum and weight decay; the schedule sets the rate at each step."""
    settings: dict[str, Any] = {
        "momentum": config.momentum,
        "weight_decay": config.l2_penalty,
        "fused": device.type in ("cpu", "cuda"),
    }
    if isinstance(schedule, Hypergradient):
        parameters = [p for p in model.parameters() if p.requires_grad]
        return HypergradientSgd(parameters, schedule, **settings)
    groups = parameter_groups(model, config.layer_decay)
    return torch.optim.SGD(groups, lr=config.top_rate, nesterov=config.momentum > 0, **settings)


def parameter_groups(model: nn.Module, layer_decay: float) -> list[dict[str, Any]]:
    """What is trained, and the `share` of the rate that it gets; the last layer's group is first.

    A stage's share is `layer_decay` times that of the stage after it (Howard & Ruder 2018,
    arXiv:1801.06146, section 3.2). Without a decay there is one group.

    Raises:
        InvalidConfig: there is a decay, and the network is one of timm.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if layer_decay == 1:
        return [{"params": [p for _, p in trained]}]
    stages: dict[int, list[Tensor]] = {}
    for name, parameter in trained:
        stage = STAGE.match(name)
        # A stage comes after all before it; what belongs to none is the last layer.
        stages.setdefault(int(stage[1]) if stage else sys.maxsize, []).append(parameter)
    if len(stages) == 1:
        raise InvalidConfig("--layer-decay: the stages of this network are not known; leave it out")
    downwards = sorted(stages, reverse=True)
    return [
        {"params": stages[stage], "share": layer_decay**depth}
        for depth, stage in enumerate(downwards)
    ]


def _dot(left: list[Tensor], right: list[Tensor]) -> float:
    products = [(a * b).sum() for a, b in zip(left, right, strict=True)]
    return float(torch.stack(products).sum())
