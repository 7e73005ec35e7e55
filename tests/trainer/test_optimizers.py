import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import backward

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.trainer.models.layers import Backbone
from snapensemble.trainer.models.registry import PooledClassifier, WrappedClassifier
from snapensemble.trainer.optimizers import HypergradientSgd, parameter_groups
from snapensemble.trainer.schedules import Hypergradient
from tests.networks import image_of


def rule(**values: Any) -> Hypergradient:
    return Hypergradient(**{"eta_start": 0.1, "eta_max": 1.0, "beta": 0.01, **values})


def quadratic_descent(
    hypergradient: Hypergradient, updates: int, **settings: Any
) -> tuple[list[float], list[float]]:
    """Positions and rates on f(x) = x^2 / 2 from x = 4, where the gradient is x itself."""
    x = torch.tensor([4.0], requires_grad=True)
    optimizer = HypergradientSgd([x], hypergradient, **settings)
    positions, rates = [], []
    for _ in range(updates):
        optimizer.zero_grad()
        backward((x.square() / 2).sum())
        optimizer.step()
        positions.append(x.item())
        rates.append(optimizer.param_groups[0]["lr"])
    return positions, rates


def test_the_additive_rule_follows_numbers_worked_out_by_hand() -> None:
    # g = 4: no step before it, so alpha stays 0.1 and x becomes 3.6
    # g = 3.6: alpha = 0.1 + 0.01 * 3.6 * 4 = 0.244, x = 3.6 - 0.244 * 3.6 = 2.7216
    # g = 2.7216: alpha = 0.244 + 0.01 * 2.7216 * 3.6 = 0.3419776, x = 1.790874
    positions, rates = quadratic_descent(rule(), 3)
    assert rates == pytest.approx([0.1, 0.244, 0.3419776], rel=1e-6)
    assert positions == pytest.approx([3.6, 2.7216, 1.7908738], rel=1e-6)


def test_the_nesterov_form_uses_the_direction_of_the_update_before() -> None:
    # mu = 0.5. g = 4: v = 4, d = 4 + 0.5 * 4 = 6, x = 4 - 0.1 * 6 = 3.4
    # g = 3.4: alpha = 0.1 + 0.01 * 3.4 * 6 = 0.304; v = 5.4, d = 6.1, x = 3.4 - 1.8544 = 1.5456
    # g = 1.5456: alpha = 0.304 + 0.01 * 1.5456 * 6.1 = 0.3982816
    positions, rates = quadratic_descent(rule(), 3, momentum=0.5)
    assert rates == pytest.approx([0.1, 0.304, 0.3982816], rel=1e-6)
    assert positions[:2] == pytest.approx([3.4, 1.5456], rel=1e-6)


def test_the_multiplicative_rule_moves_by_the_cosine() -> None:
    # in one dimension the cosine is 1 as long as the sign stays: alpha grows by beta each time
    _, rates = quadratic_descent(rule(rule="multiplicative", beta=0.2), 4)
    assert rates == pytest.approx([0.1, 0.12, 0.144, 0.1728], rel=1e-6)


def test_weight_decay_is_part_of_the_gradient() -> None:
    # gradient x + 0.5 x: g = 6, x = 3.4; g = 5.1: alpha = 0.1 + 0.01 * 5.1 * 6
    _, rates = quadratic_descent(rule(), 2, weight_decay=0.5)
    assert rates[1] == pytest.approx(0.406, rel=1e-6)


def test_the_rate_stays_between_zero_and_its_highest() -> None:
    _, rates = quadratic_descent(rule(beta=10.0), 3)
    assert rates[1] == 1.0  # 0.1 + 10 * 3.6 * 4 is far above
    # from 1.0 the position is exactly 0; overshooting at 1.9 makes products negative
    _, rates = quadratic_descent(rule(eta_start=1.9, eta_max=2.0, beta=1.0), 2)
    assert rates[1] == 0.0  # 1.9 + (-3.6) * 4 is far below


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["additive", "multiplicative"])
def test_a_hypergradient_that_is_no_number_leaves_the_rate(bad: float, kind: str) -> None:
    x = torch.tensor([1.0], requires_grad=True)
    optimizer = HypergradientSgd([x], rule(rule=kind))
    x.grad = torch.tensor([1.0])
    optimizer.step()
    assert optimizer.moved_rate(0.1, [torch.tensor([bad])], [torch.tensor([1.0])]) == 0.1


def test_a_gradient_of_zero_leaves_the_multiplicative_rate() -> None:
    x = torch.tensor([1.0], requires_grad=True)
    optimizer = HypergradientSgd([x], rule(rule="multiplicative"))
    assert optimizer.moved_rate(0.1, [torch.zeros(2)], [torch.ones(2)]) == 0.1


def test_the_products_are_in_float32_whatever_the_weights_are() -> None:
    x = torch.full((4096,), 1.0, dtype=torch.bfloat16, requires_grad=True)
    optimizer = HypergradientSgd([x], rule(beta=1e-4))
    for _ in range(2):
        x.grad = torch.full_like(x, 1.0)
        optimizer.step()
    assert optimizer.state[x]["direction"].dtype == torch.float32
    # 4096 ones: bfloat16 could not even count them
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 + 1e-4 * 4096)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_beta_zero_is_sgd_to_the_bit(momentum: float) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    twin = copy.deepcopy(net)
    settings: dict[str, Any] = {"momentum": momentum, "weight_decay": 0.01, "fused": True}
    ours = HypergradientSgd(net.parameters(), rule(beta=0.0), **settings)
    plain = torch.optim.SGD(twin.parameters(), lr=0.1, nesterov=momentum > 0, **settings)
    for _ in range(20):
        images, labels = torch.randn(8, 1, 8, 8), torch.randint(0, 3, (8,))
        for model, optimizer in ((net, ours), (twin, plain)):
            optimizer.zero_grad()
            backward(nn.functional.cross_entropy(model(images), labels))
            optimizer.step()
    pairs: zip[tuple[Tensor, Tensor]] = zip(net.parameters(), twin.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_state_survives_saving_and_loading() -> None:
    x = torch.tensor([4.0], requires_grad=True)
    first = HypergradientSgd([x], rule(), momentum=0.5)

    def descend(optimizer: HypergradientSgd, at: Tensor, updates: int) -> None:
        for _ in range(updates):
            optimizer.zero_grad()
            backward((at.square() / 2).sum())
            optimizer.step()

    descend(first, x, 2)
    y = x.detach().clone().requires_grad_()
    second = HypergradientSgd([y], rule(), momentum=0.5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    descend(first, x, 3)
    descend(second, y, 3)
    assert torch.equal(x, y)
    assert first.param_groups[0]["lr"] == second.param_groups[0]["lr"]


def staged_network(stages: int) -> PooledClassifier:
    """Stages of one convolution and one batch normalisation, in which there is a stage too."""
    layers: list[nn.Module] = [
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Sequential(nn.BatchNorm2d(3)))
        for _ in range(stages)
    ]
    return PooledClassifier(Backbone(layers, 3), 4, image_of(8))


@given(st.integers(1, 12), st.floats(0.01, 1, exclude_max=True), st.data())
def test_each_stage_has_a_share_of_the_rate_and_every_parameter_one_group(
    stages: int, layer_decay: float, data: st.DataObject
) -> None:
    model = staged_network(stages)
    frozen = data.draw(st.sets(st.integers(0, stages - 1), max_size=stages - 1))
    for stage in frozen:
        model.features[stage].requires_grad_(False)
    groups = parameter_groups(model, layer_decay)
    grouped = [id(p) for group in groups for p in group["params"]]
    trained = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trained)
    kept = sorted(set(range(stages)) - frozen, reverse=True)
    expected = [model.head, *(model.features[stage] for stage in kept)]
    assert len(groups) == len(expected)
    for depth, (group, part) in enumerate(zip(groups, expected, strict=True)):
        assert [id(p) for p in group["params"]] == [id(p) for p in part.parameters()]
        assert group["share"] == pytest.approx(layer_decay**depth)


def test_without_a_layer_decay_all_that_is_trained_is_one_group_with_the_whole_rate() -> None:
    for net in (staged_network(3), WrappedClassifier(nn.Linear(2, 2), image_of(8))):
        first, *others = net.parameters()
        first.requires_grad_(False)
        (group,) = parameter_groups(net, 1.0)
        assert list(map(id, group["params"])) == list(map(id, others))
        assert "share" not in group


@pytest.mark.parametrize("layer_decay", [0.5, 0.999])
def test_a_layer_decay_is_refused_where_the_stages_are_not_known(layer_decay: float) -> None:
    own_features = nn.Sequential()
    own_features.add_module("features", nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)))
    for net in (nn.Linear(2, 2), own_features):  # `net.features.0` is not a stage of ours
        with pytest.raises(InvalidConfig, match="--layer-decay: the stages .* leave it out"):
            parameter_groups(WrappedClassifier(net, image_of(8)), layer_decay)
