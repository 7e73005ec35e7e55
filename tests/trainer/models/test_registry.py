import pytest
import torch

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.pixels import ImageContract
from snapensemble.trainer.models.registry import (
    MODELS,
    PooledClassifier,
    build_model,
    parameter_count,
    set_whitening,
)
from snapensemble.trainer.models.resnet import BasicBlock
from snapensemble.trainer.models.whitening import PatchWhitening


def contract(side: int, channels: int = 3) -> ImageContract:
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.25, 0.2, 0.3)[:channels]
    return ImageContract(
        channels=1 if channels == 1 else 3, height=side, width=side, mean=mean, std=std
    )


CIFAR = contract(32)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("20", 0.27), ("32", 0.46), ("44", 0.66), ("56", 0.85), ("110", 1.7)],
)
def test_parameter_counts_are_those_of_the_paper(name: str, millions: float) -> None:
    # He et al. 2016, table 6. Option B's shortcuts add 2,752.
    count = parameter_count(build_model(f"resnet{name}", 10, CIFAR))
    assert count / 1e6 == pytest.approx(millions, abs=0.05 if millions > 1 else 0.0075)


@pytest.mark.parametrize(
    ("name", "classes", "count"),
    [
        ("wrn-16-4", 10, 2_748_890),  # Zagoruyko & Komodakis 2016, table 5: 2.7M
        ("wrn-28-10", 10, 36_479_194),  # table 5: 36.5M
        ("wrn-32-4", 10, 7_399_130),  # by its 5 blocks per group; no figure is published
        ("densenet-40-12", 10, 1_019_722),  # Huang et al. 2017, table 2: 1.0M
        ("resnet18", 1000, 11_689_512),  # the published weights
        ("resnet50", 1000, 25_557_032),  # likewise
    ],
)
def test_parameter_counts_are_exact(name: str, classes: int, count: int) -> None:
    with torch.device("meta"):
        model = build_model(name, classes, contract(64))
    assert parameter_count(model) == count


@pytest.mark.parametrize("name", [n for n in MODELS if n not in ("wrn-28-10", "resnet110")])
def test_every_network_gives_logits_for_uint8_images(name: str) -> None:
    side = max(32, MODELS[name].min_side)
    model = build_model(name, 7, contract(side)).eval()
    with torch.no_grad():
        logits_BK = model(torch.zeros(2, 3, side, side, dtype=torch.uint8))
    assert logits_BK.shape == (2, 7) and logits_BK.dtype == torch.float32


@pytest.mark.parametrize(
    "name", ["tiny", "resnet20", "wrn-16-4", "densenet-40-12", "resnet18", "efficientnet-lite0"]
)
def test_every_weight_is_trained(name: str) -> None:
    torch.manual_seed(0)
    image = contract(max(16, MODELS[name].min_side))
    model = build_model(name, 3, image).train()
    model(torch.randint(0, 256, (4, *image.shape), dtype=torch.uint8)).square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0


def test_steps_in_place_change_no_bit_of_a_residual_network() -> None:
    torch.manual_seed(0)
    model = build_model("resnet20", 10, CIFAR).train()
    images_BCHW = torch.randint(0, 256, (16, *CIFAR.shape), dtype=torch.uint8)

    def plain(block: BasicBlock, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(block.bn1(block.conv1(x)))
        return torch.relu(block.bn2(block.conv2(y)) + block.shortcut(x))

    def gradients(logits_BK: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(logits_BK.square().sum(), list(model.parameters())))

    assert isinstance(model, PooledClassifier)
    x = torch.relu(model.features[:2](model.normalised(images_BCHW)))
    for block in list(model.features)[3:]:
        assert isinstance(block, BasicBlock)
        x = plain(block, x)
    expected_BK = model.head(x.mean(dim=(2, 3)))
    found_BK = model(images_BCHW)
    assert torch.equal(found_BK, expected_BK)
    pairs = zip(gradients(found_BK), gradients(expected_BK), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_normalisation_is_part_of_the_network() -> None:
    model = build_model("small", 2, CIFAR).eval()
    seen: list[torch.Tensor] = []
    assert isinstance(model, PooledClassifier)
    model.features.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8))
    assert torch.allclose(seen[0][0, 0], torch.tensor((1 - 0.4) / 0.25))


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InvalidConfig, match="'resnet21'; choose one of tiny, small, resnet20"):
        build_model("resnet21", 10, CIFAR)


def test_a_network_for_large_images_refuses_small_ones() -> None:
    with pytest.raises(
        InvalidConfig, match="resnet18 is for images of 64 pixels and more.*32 x 32"
    ):
        build_model("resnet18", 10, CIFAR)


@pytest.mark.parametrize(("name", "side"), [("resnet18+whiten", 64), ("tiny+whiten", 4)])
def test_whitening_is_for_networks_and_images_that_it_makes_sense_for(name: str, side: int) -> None:
    with pytest.raises(InvalidConfig, match="whiten is for the networks for small images"):
        build_model(name, 10, contract(side))


def test_an_unknown_network_with_whitening_is_unknown() -> None:
    with pytest.raises(InvalidConfig, match="unknown model 'resnet21\\+whiten'"):
        build_model("resnet21+whiten", 10, CIFAR)


def smooth_images(N: int, side: int, channels: int) -> torch.Tensor:
    """Images whose neighbouring pixels and channels go together, as in photographs."""
    torch.manual_seed(0)
    coarse = torch.rand(N, 1, side // 4, side // 4) + 0.3 * torch.rand(N, channels, 1, 1)
    large = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    noise = 0.2 * torch.rand(N, channels, side, side)
    return ((large + noise) / 1.5 * 255).to(torch.uint8)


def whitening_of(model: torch.nn.Module) -> PatchWhitening:
    assert isinstance(model, PooledClassifier)
    first = model.features[0]
    assert isinstance(first, PatchWhitening)
    return first


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_patches_have_variance_1_and_do_not_depend_on_each_other(channels: int) -> None:
    image, images_NCHW = contract(16, channels), smooth_images(500, 16, channels)
    model = build_model("tiny+whiten", 10, image)
    set_whitening(model, images_NCHW)
    whitening, D = whitening_of(model), 4 * channels
    out = whitening(model.normalised(images_NCHW))
    assert out.shape == (500, 2 * D, 15, 15)
    assert torch.equal(out[:, :D], -out[:, D:])
    covariance_DD = torch.cov(out[:, :D].movedim(1, 0).reshape(D, -1))
    off_diagonal_DD = covariance_DD - torch.diag(covariance_DD.diagonal())
    assert off_diagonal_DD.abs().max() < 1e-3
    # The added epsilon leaves directions of little variance below 1.
    assert covariance_DD.diagonal().min() > 0.95 and covariance_DD.diagonal().max() < 1.001


def test_whitening_is_not_trained_and_comes_back_with_the_weights() -> None:
    model = build_model("tiny+whiten", 10, CIFAR).train()
    set_whitening(model, smooth_images(50, 32, 3))
    before = whitening_of(model).weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    model(smooth_images(8, 32, 3)).square().sum().backward()
    optimizer.step()
    assert torch.equal(whitening_of(model).weight, before)
    again = build_model("tiny+whiten", 10, CIFAR)
    again.load_state_dict(model.state_dict())
    assert torch.equal(whitening_of(again).weight, before)
    assert parameter_count(model) == sum(p.numel() for p in model.parameters()) - before.numel()


def test_whitening_constant_images_stays_finite() -> None:
    model = build_model("tiny+whiten", 10, CIFAR)
    set_whitening(model, torch.full((10, 3, 32, 32), 7, dtype=torch.uint8))
    assert torch.isfinite(whitening_of(model).weight).all()


def test_setting_the_whitening_of_a_network_without_changes_nothing() -> None:
    model = build_model("tiny", 10, CIFAR)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    set_whitening(model, smooth_images(10, 32, 3))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
