from copy import deepcopy

import pytest
import torch
from torch import Tensor

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.pixels import ImageContract
from snapensemble.trainer.models.efficientnet_lite import STAGES
from snapensemble.trainer.models.registry import Classifier, build_model
from snapensemble.trainer.models.tuning import divided

LITE_STAGES = [f"stage{number}" for number in range(1, len(STAGES) + 1)]
DIVISIONS = [
    *(("efficientnet-lite0", tune) for tune in (*LITE_STAGES, "top", "head")),
    ("resnet20", "head"),
    ("timm:test_resnet", "head"),  # its last layer is net.fc
    ("timm:test_vit", "head"),  # net.head
    ("timm:test_byobnet", "head"),  # net.head.fc
]


def network(name: str, channels: int = 3) -> tuple[Classifier, Tensor]:
    """A network in evaluation mode, and two images for it."""
    image = ImageContract(
        channels=1 if channels == 1 else 3,
        height=64,
        width=72 if "vit" not in name else 64,
        mean=(0.4, 0.5, 0.6)[:channels],
        std=(0.2, 0.25, 0.3)[:channels],
    )
    torch.manual_seed(1)
    model = build_model(name, 5, image)
    images_BCHW = torch.randint(0, 256, (2, *image.shape), dtype=torch.uint8)
    with torch.no_grad():
        for _ in range(3):
            model.train()(images_BCHW)
    return model.eval(), images_BCHW


@pytest.mark.parametrize(("name", "tune"), DIVISIONS)
def test_the_trunk_and_then_the_member_give_what_the_whole_does(name: str, tune: str) -> None:
    model, images_BCHW = network(name)
    trunk, member = divided(model, tune)
    with torch.no_grad():
        expected_BK = model(images_BCHW)
        found_BK = member.eval()(trunk.eval()(images_BCHW))
    assert expected_BK.std() > 1e-3
    assert torch.allclose(found_BK, expected_BK, atol=1e-5)


@pytest.mark.parametrize(("name", "tune"), DIVISIONS)
def test_the_tensors_of_both_are_those_of_the_whole(name: str, tune: str) -> None:
    model, _ = network(name)
    trunk, member = (part.state_dict() for part in divided(model, tune))
    whole = model.state_dict()
    assert not trunk.keys() & member.keys()
    assert member and (trunk | member).keys() == whole.keys()
    assert all(torch.equal(value, whole[key]) for key, value in (trunk | member).items())


@pytest.mark.parametrize(
    ("name", "tune"), [("efficientnet-lite0", "stage6"), ("timm:test_resnet", "head")]
)
def test_what_is_learned_by_the_member_is_learned_by_the_whole(name: str, tune: str) -> None:
    model, images_BCHW = network(name)
    _, member = divided(model, tune)
    with torch.no_grad():
        before_BK = model(images_BCHW)
        for parameter in member.parameters():
            parameter.mul_(1.1)
        assert not torch.allclose(model(images_BCHW), before_BK)


def test_a_later_stage_leaves_more_to_the_trunk() -> None:
    model, _ = network("efficientnet-lite0")
    counts = [
        sum(p.numel() for p in divided(model, tune)[0].parameters())
        for tune in (*LITE_STAGES, "top", "head")
    ]
    assert counts == sorted(set(counts))


@pytest.mark.parametrize(
    ("name", "tune"), [("efficientnet-lite0", "top"), ("timm:test_resnet", "head")]
)
def test_parts_convert_as_any_module_before_or_after_the_division(name: str, tune: str) -> None:
    model, images_BCHW = network(name, channels=1)
    with torch.no_grad():
        expected_BK = model(images_BCHW)
        after = [part.double() for part in divided(deepcopy(model), tune)]
        before = divided(model.double(), tune)
        for trunk, member in (before, after):
            found_BK = member(trunk(images_BCHW))
            assert found_BK.dtype == torch.float64
            assert torch.allclose(found_BK.float(), expected_BK, atol=1e-4)


@pytest.mark.parametrize("tune", ["stem", "stage8", "Stage1", "", "all"])
def test_an_unknown_stage_is_answered_with_the_known_ones(tune: str) -> None:
    with pytest.raises(InvalidConfig, match="can be tuned from stage1, .*, top, head, or all"):
        divided(network("efficientnet-lite0")[0], tune)


@pytest.mark.parametrize("name", ["resnet20", "timm:test_resnet"])
def test_a_network_without_named_stages_is_tuned_from_its_head(name: str) -> None:
    with pytest.raises(InvalidConfig, match="this network can be tuned from head, or all"):
        divided(network(name)[0], "stage1")


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("deit_tiny_distilled_patch16_224", 32),  # two last layers
        ("dpn48b", 64),  # its last layer takes maps
    ],
)
def test_a_network_whose_end_is_not_one_layer_is_not_divided(name: str, side: int) -> None:
    image = ImageContract(channels=3, height=side, width=side, mean=(0.5,) * 3, std=(0.25,) * 3)
    model = build_model(f"timm:{name}", 5, image)
    with pytest.raises(InvalidConfig, match="--tune head: .*cannot be divided.*use --tune all"):
        divided(model, "head")
