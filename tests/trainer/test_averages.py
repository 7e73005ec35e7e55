from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from snapensemble.trainer.averages import (
    GAMMA,
    TAIL,
    CycleAverages,
    measure_batch_norm,
    soups,
)


def number(value: float) -> nn.Linear:
    """A network of one weight."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, value)
    return network


def averaged(weights: Sequence[float], averages: CycleAverages | None = None) -> dict[str, float]:
    """The averages of a cycle whose updates leave these weights."""
    network = number(0.0)
    averages = averages or CycleAverages(network)
    for done, weight in enumerate(weights, start=1):
        nn.init.constant_(network.weight, weight)
        averages.update(network, done, len(weights))
    return {kind: weight_of(each) for kind, each in averages.networks().items()}


def weight_of(network: nn.Module) -> float:
    return next(network.parameters()).item()


def profile(length: int) -> np.ndarray:
    """What the power function EMA weighs each update of a cycle by, in closed form."""
    powers = np.arange(length + 1) ** (GAMMA + 1)
    return np.asarray(np.diff(powers) / powers[-1])


cycles = st.lists(st.floats(-2, 2), min_size=1, max_size=60)


@given(cycles)
def test_the_moving_average_weighs_updates_by_a_power_of_their_place(weights: list[float]) -> None:
    expected = float(profile(len(weights)) @ np.array(weights))
    assert averaged(weights)["ema"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("length", [200, 5_000])
def test_the_moving_averages_width_is_a_tenth_of_the_cycle_however_long_it_is(length: int) -> None:
    place, share = np.arange(length) / length, profile(length)
    deviation = np.sqrt(share @ place**2 - (share @ place) ** 2)
    assert deviation == pytest.approx(0.1, abs=0.003)


@given(cycles)
def test_the_tail_is_the_plain_mean_of_the_cycles_last_quarter(weights: list[float]) -> None:
    first = int((1 - TAIL) * len(weights))
    assert averaged(weights)["tail"] == pytest.approx(np.mean(weights[first:]), abs=1e-5)


def test_a_restart_forgets_the_weights_before_it() -> None:
    averages = CycleAverages(number(0.0))
    averaged([9.0] * 20, averages)
    assert averaged([1.0, 2.0, 3.0], averages) == averaged([1.0, 2.0, 3.0])


def test_averages_go_on_from_their_saved_state_to_the_same_bits() -> None:
    network, weights = number(0.0), [0.3, -1.2, 0.7, 2.0, -0.1, 0.4, 1.1, 0.2]
    whole = averaged(weights)
    averages = CycleAverages(network)
    for done, weight in enumerate(weights, start=1):
        if done == 7:  # in the tail
            saved = deepcopy(averages.state_dict())
            averages = CycleAverages(number(5.0))
            averages.load_state_dict(saved)
        nn.init.constant_(network.weight, weight)
        averages.update(network, done, len(weights))
    found = {kind: weight_of(each) for kind, each in averages.networks().items()}
    assert found == whole


def test_averages_of_a_checkpoint_that_counted_them_go_on() -> None:
    """As torch's AveragedModel wrote them, up to version 0.1."""
    kept = {}
    for kind, value in (("ema", 1.5), ("tail", 2.5)):
        kept[kind] = {"n_averaged": torch.tensor(7), "module.weight": torch.tensor([[value]])}
    averages = CycleAverages(number(0.0))
    averages.load_state_dict(kept)
    assert list(map(weight_of, averages.networks().values())) == [1.5, 2.5]


def test_soups_are_means_over_the_latest_cycles_and_five_at_most() -> None:
    def earlier(cycle: int) -> dict[str, Tensor]:
        return number(float(cycle)).state_dict()

    latest = number(6.0)
    found = {count: weight_of(soup) for count, soup in soups(latest, 6, earlier)}
    assert found == pytest.approx({2: 5.5, 3: 5.0, 4: 4.5, 5: 4.0})
    assert weight_of(latest) == 6.0
    assert not list(soups(latest, 0, earlier))


def test_batch_normalisation_gets_the_mean_over_the_batches() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(2)
    network = nn.Sequential(norm)
    batches = [torch.randn(8, 2) + shift for shift in (0.0, 4.0, 5.0)]
    network(torch.randn(8, 2) + 100)
    network.eval()
    measure_batch_norm(network, batches)
    means = torch.stack([batch.mean(dim=0) for batch in batches])
    assert norm.running_mean is not None
    assert torch.allclose(norm.running_mean, means.mean(dim=0), atol=1e-5)
    assert not network.training and norm.momentum == 0.1


def test_averages_have_the_statistics_that_training_keeps() -> None:
    network = nn.BatchNorm1d(2).eval()
    averages = CycleAverages(network)
    network.running_mean = torch.tensor([3.0, -1.0])
    averages.update(network, 1, 4)
    averages.update(network, 4, 4)
    for average in averages.networks().values():
        assert torch.equal(average.get_buffer("running_mean"), network.running_mean)
