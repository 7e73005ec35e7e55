import pytest
import torch

from contracts.errors import InvalidConfig
from contracts.pixels import ImageContract
from trainer.models import MODELS, build_model, parameter_count

CIFAR = ImageContract(channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("20", 0.27), ("32", 0.46), ("44", 0.66), ("56", 0.85), ("110", 1.7)],
)
def test_parameter_counts_are_those_of_the_paper(name: str, millions: float) -> None:
    # He et al. 2016, table 6. Option B's shortcuts add 2,752.
    count = parameter_count(build_model(f"resnet{name}", 10, CIFAR))
    assert count / 1e6 == pytest.approx(millions, abs=0.05 if millions > 1 else 0.0075)


@pytest.mark.parametrize("name", MODELS)
def test_every_network_gives_logits_for_uint8_images(name: str) -> None:
    model = build_model(name, 7, CIFAR).eval()
    logits_BK = model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert logits_BK.shape == (2, 7) and logits_BK.dtype == torch.float32


def test_normalisation_is_part_of_the_network() -> None:
    model = build_model("small", 2, CIFAR).eval()
    seen = []
    model.features.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8))
    assert torch.allclose(seen[0], torch.tensor((1 - 0.5) / 0.25))


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InvalidConfig, match="'resnet21'; choose one of tiny, small, resnet20"):
        build_model("resnet21", 10, CIFAR)
