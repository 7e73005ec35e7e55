import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import onnx
import pytest
import torch
from torch import Tensor, nn

import snapensemble.export.onnx_export
from snapensemble.contracts.run import read_run
from snapensemble.export.onnx_export import (
    DATA_KINDS,
    OPSET,
    Converter,
    Graph,
    converted,
    data_kind,
    graph_sentence,
    member_metadata,
    to_onnx,
)
from snapensemble.export.onnx_graph import ConversionFailed
from snapensemble.export.parity import parity
from snapensemble.trainer.data import dataset as data
from tests.networks import METADATA, exported, image_of, noise_NCHW, trained

IMAGE, PIXELS = image_of(16), noise_NCHW(16)[:10]


@pytest.fixture
def small() -> tuple[nn.Module, bytes]:
    return trained("tiny", 16), exported("tiny", 16)


def test_the_graph_keeps_the_contract(small: tuple[nn.Module, bytes]) -> None:
    proto = onnx.load_from_string(small[1])
    onnx.checker.check_model(proto, full_check=True)
    (images,), (logits, *_) = proto.graph.input, proto.graph.output
    shape = images.type.tensor_type.shape.dim
    assert (images.name, images.type.tensor_type.elem_type) == ("images", onnx.TensorProto.UINT8)
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    assert shape[0].dim_param and [d.dim_value for d in shape[1:]] == [3, 16, 16]
    assert proto.opset_import[0].version == OPSET
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}


def test_all_weights_are_inside_the_one_file(small: tuple[nn.Module, bytes]) -> None:
    proto = onnx.load_from_string(small[1])
    assert not any(t.external_data for t in proto.graph.initializer)


def test_the_file_tells_nothing_of_this_machine(small: tuple[nn.Module, bytes]) -> None:
    assert b".py" not in small[1] and b"/trainer" not in small[1]


def test_the_same_network_gives_the_same_bytes(small: tuple[nn.Module, bytes]) -> None:
    assert to_onnx(small[0], IMAGE, METADATA) == small[1]


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("tiny+whiten", 16), ("resnet20", 16),
        *(
            pytest.param(*repeated, marks=pytest.mark.slow)
            for repeated in (
                ("tiny", 16), ("timm:test_resnet", 32), ("wrn-16-4", 16), ("densenet-40-12", 8),
                ("efficientnet-lite0", 64),
            )
        ),
    ],
)  # fmt: skip
def test_a_further_network_of_an_architecture_gets_the_bytes_that_it_would_get_alone(
    name: str, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = exported(name, side)
    converter, graphs = Converter(image_of(side)), []

    def counted(*args: Any) -> Graph:
        graphs.append(converted(*args))
        return graphs[-1]

    monkeypatch.setattr(snapensemble.export.onnx_export, "converted", counted)
    first, further = trained(name, side, seed=1), trained(name, side)
    files = [converter.convert(network, METADATA) for network in (first, further)]
    assert files[1] == alone
    # Also from a graph that another network's weights went into before.
    assert converter.convert(first, METADATA) == files[0] != files[1]
    assert len(graphs) == 1
    pixels = noise_NCHW(side)[:10]
    for network, file in zip((first, further), files, strict=True):
        assert parity(network, [file], pixels, what=name).record.max_probability_difference < 1e-5


def test_networks_that_differ_in_what_is_no_constant_of_the_graph_are_converted_again() -> None:
    class Tied(nn.Module):
        """The same numbers under two names, of which the graph has one."""

        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.first = nn.Linear(3, 3)
            self.second = self.first

        def forward(self, images: Tensor) -> Tensor:
            x = images.float().mean(dim=(2, 3))
            return cast(Tensor, self.second(self.first(x)))

    converter = Converter(IMAGE)
    for seed in range(3):
        network = Tied(seed).eval()
        file = converter.convert(network, METADATA)
        parity(network, [file], PIXELS, what="tied")


def test_another_architecture_under_the_same_name_is_converted_again() -> None:
    converter = Converter(IMAGE)
    for name in ("tiny", "resnet20"):
        assert converter.convert(trained(name, 16), METADATA) == exported(name, 16)


def test_the_file_explains_itself(small: tuple[nn.Module, bytes]) -> None:
    data = to_onnx(small[0], IMAGE, {"seed": "7", "classes": '["a", "b"]'})
    assert data == to_onnx(small[0], IMAGE, {"classes": '["a", "b"]', "seed": "7"})
    proto = onnx.load_from_string(data)
    assert [(p.key, p.value) for p in proto.metadata_props] == [
        ("classes", '["a", "b"]'),
        ("seed", "7"),
    ]
    assert (proto.producer_name, proto.producer_version) == (
        "snapensemble",
        version("snapensemble"),
    )
    assert "images: uint8 [batch, 3, 16, 16], RGB, 0 to 255" in proto.graph.doc_string
    assert "logits: float32 [batch, 4]" in proto.graph.doc_string


def test_a_network_that_fixes_the_batch_is_refused() -> None:
    class TwoAtATime(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.reshape(2, -1).float()[:, :4]

    with pytest.raises(ConversionFailed, match="batch dimension"):
        to_onnx(TwoAtATime(), IMAGE)


def test_a_member_says_where_it_comes_from_and_what_it_takes(digits_run: Path) -> None:
    run = read_run(digits_run)
    said = member_metadata(run, run.snapshots[1], member="cycle-01", precision="int8")
    assert json.loads(said["classes"]) == list(run.classes)
    assert json.loads(said["image"]) == run.image.model_dump(mode="json")
    assert (said["model"], said["data"], said["seed"]) == ("small", "digits", "0")
    assert (said["member"], said["cycle"], said["precision"]) == ("cycle-01", "1", "int8")
    assert said["step"] == str(run.snapshots[1].step)
    assert float(said["val_nll"]) == pytest.approx(run.snapshots[1].val.nll, abs=1e-6)
    assert said["schedule"].startswith("sgdr: 3 cycles, ")


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("digits", "digits"),
        ("cifar10:/home/me/cifar", "cifar10"),
        ("/home/me/flowers", "folder"),
        ("C:/pictures", "folder"),
        ("./npz", "folder"),
    ],
)
def test_no_path_of_the_machine_that_trained_is_told(
    digits_run: Path, spec: str, kind: str
) -> None:
    assert data_kind(spec) == kind
    run = read_run(digits_run)
    run = run.model_copy(update={"data": run.data.model_copy(update={"spec": spec})})
    said = member_metadata(run, run.snapshots[0], member="cycle-00")
    assert said["data"] == kind and "/" not in "".join(said.values())


def test_every_kind_of_data_is_known() -> None:
    assert set(DATA_KINDS) == {"digits", *data._ARRAYS, *data._PICTURES}


def test_a_grey_image_is_called_grey(digits_run: Path) -> None:
    image = read_run(digits_run).image
    takes, gives = ("images", "uint8", image.shape), ("logits", "float32", (10,))
    assert "images: uint8 [batch, 1, 8, 8], grey" in graph_sentence(image, takes, gives)
