import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.pixels import ImageContract
from snapensemble.trainer.models.registry import (
    WrappedClassifier,
    build_model,
    expected_normalisation,
)
from snapensemble.trainer.models.timm import imported_timm

timm = imported_timm()


def contract(side: int = 32, channels: int = 3) -> ImageContract:
    values = (0.5,) * channels
    return ImageContract(
        channels=1 if channels == 1 else 3, height=side, width=side, mean=values, std=values
    )


def other_weights(**settings: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(99)
    return dict(timm.create_model("test_resnet", **settings).state_dict())


def net_of(model: torch.nn.Module) -> torch.nn.Module:
    assert isinstance(model, WrappedClassifier)
    return model.net


def test_a_network_of_timm_takes_uint8_images_and_normalises_them() -> None:
    model = build_model("timm:test_resnet", 7, contract()).eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = net_of(model)((images / 255 - 0.5) / 0.5)
        assert torch.allclose(model(images), expected, atol=1e-5)
    assert expected.shape == (2, 7)
    assert all(name.startswith("net.") for name in model.state_dict())


def test_fresh_weights_depend_on_the_seed_and_are_timms_own() -> None:
    def drawn(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return dict(net_of(build_model("timm:test_resnet", 7, contract())).state_dict())

    torch.manual_seed(1)
    expected = timm.create_model("test_resnet", num_classes=7).state_dict()
    one, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert all(torch.equal(one[name], expected[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_pretrained_weights_come_from_a_file_with_a_fresh_last_layer(
    suffix: str, tmp_path: Path
) -> None:
    weights, file = other_weights(), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": weights}, file)
    else:
        safetensors.torch.save_file(weights, file)
    state = net_of(
        build_model("timm:test_resnet", 7, contract(), pretrained=str(file))
    ).state_dict()
    assert state["fc.weight"].shape[0] == 7
    assert all(torch.equal(state[name], weights[name]) for name in weights if "fc." not in name)


def test_a_file_for_as_many_classes_keeps_its_last_layer(tmp_path: Path) -> None:
    weights, file = other_weights(num_classes=7), tmp_path / "seven.safetensors"
    safetensors.torch.save_file({f"net.{name}": value for name, value in weights.items()}, file)
    state = net_of(
        build_model("timm:test_resnet", 7, contract(), pretrained=str(file))
    ).state_dict()
    assert all(torch.equal(state[name], weights[name]) for name in weights)


def test_images_of_one_channel_sum_the_first_convolution(tmp_path: Path) -> None:
    weights, file = other_weights(), tmp_path / "weights.safetensors"
    safetensors.torch.save_file(weights, file)
    model = build_model("timm:test_resnet", 7, contract(channels=1), pretrained=str(file))
    first = net_of(model).state_dict()["conv1.0.weight"]
    assert torch.allclose(first, weights["conv1.0.weight"].sum(dim=1, keepdim=True), atol=1e-6)


def test_position_codes_are_made_for_the_images() -> None:
    model = build_model("timm:test_vit", 5, contract(side=64)).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape == (1, 5)


def test_the_normalisation_of_pretrained_weights_is_timms() -> None:
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert expected_normalisation("timm:resnet18", 3) == imagenet
    mean, std = expected_normalisation("timm:resnet18", 1) or ((), ())
    assert mean == pytest.approx((0.449,)) and std == pytest.approx((0.226,))
    assert expected_normalisation("resnet20", 3) is None


def test_an_unknown_network_is_answered_with_close_ones() -> None:
    with pytest.raises(InvalidConfig, match="no network 'resnet81'; close to it: timm:resnet"):
        build_model("timm:resnet81", 10, contract())


@pytest.mark.parametrize("name", ["hf-hub:some/where", "resnet18.nobody_in1k", ""])
def test_only_networks_on_timms_list_are_taken(name: str) -> None:
    with pytest.raises(InvalidConfig, match="timm has no network"):
        build_model(f"timm:{name}", 10, contract())


def test_images_that_do_not_fit_are_refused_with_the_right_size() -> None:
    with pytest.raises(InvalidConfig, match="images of .*30.*made for 160 x 160: --image-size 160"):
        build_model("timm:test_maxvit", 10, contract(side=30))


def test_a_file_of_other_weights_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"something": torch.zeros(2)}, file)
    with pytest.raises(InvalidConfig, match="does not hold weights of test_resnet"):
        build_model("timm:test_resnet", 10, contract(), pretrained=str(file))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    for name in ("weights.safetensors", "weights.pth"):
        (tmp_path / name).write_bytes(b"not weights")
        with pytest.raises(InvalidConfig, match=f"{name} is not a file of weights"):
            build_model("timm:test_resnet", 10, contract(), pretrained=str(tmp_path / name))


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"fc.weight": torch.zeros(2), "callback": print}, file)
    with pytest.raises(InvalidConfig, match="not a file of weights .*it needs print,"):
        build_model("timm:test_resnet", 10, contract(), pretrained=str(file))


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="no file of pretrained weights at .*absent.pth"):
        build_model("timm:test_resnet", 10, contract(), pretrained=str(tmp_path / "absent.pth"))


def test_weights_that_cannot_be_downloaded_are_asked_for_as_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", unreachable)
    with pytest.raises(InvalidConfig, match="no route to host; without a network, give the path"):
        build_model("timm:test_resnet", 10, contract(), pretrained="hub")


def test_without_timm_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InvalidConfig, match=r"pip install 'snapensemble\[timm\]'"):
        build_model("timm:resnet18", 10, contract())


# As torchvision is where its compiled part cannot be loaded.
WITHOUT_OPERATORS = """
import torch
from torchvision import extension

@torch.library.register_fake("torchvision::nms")
def meta_nms(dets, scores, iou_threshold): ...

@torch.library.register_fake("torchvision::qnms")
def meta_qnms(dets, scores, iou_threshold): ...

OTHER = extension
"""
USE = """
from snapensemble.trainer.models.timm import imported_timm

assert imported_timm().NAME == "of timm" and imported_timm() is imported_timm()
"""


def test_timm_is_imported_beside_a_torchvision_for_another_torch(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(WITHOUT_OPERATORS)
    (tmp_path / "torchvision" / "extension.py").touch()
    (tmp_path / "timm.py").write_text("import torchvision\nNAME = 'of timm'\n")

    def run(code: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    plain = run("import timm")
    assert "operator torchvision::nms does not exist" in plain.stderr
    found = run(USE)
    assert found.returncode == 0, found.stderr


def test_a_torchvision_that_cannot_be_imported_is_named_with_torchs_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "compiled with different CUDA major versions"
    (tmp_path / "torchvision.py").write_text(f"raise RuntimeError('{reason}. Please reinstall')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision")
    with pytest.raises(
        InvalidConfig, match=f"{reason}; .*built for torch {re.escape(torch.__version__)}$"
    ):
        build_model("timm:resnet18", 10, contract())
