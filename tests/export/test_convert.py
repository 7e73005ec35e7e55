import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from contracts.pixels import ImageContract
from export.convert import OPSET, ConversionFailed, to_onnx
from export.verify import BATCH_SIZES, ParityFailed, parity
from trainer.models import build_model

IMAGE = ImageContract(channels=3, height=16, width=16, mean=(0.4, 0.5, 0.6), std=(0.2,) * 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (10, *IMAGE.shape), dtype=np.uint8)


def trained(name: str) -> nn.Module:
    """A network whose batch-norm statistics are not those of a fresh one."""
    torch.manual_seed(0)
    model = build_model(name, 4, IMAGE).train()
    for _ in range(3):
        model(torch.from_numpy(PIXELS))
    return model.eval()


@pytest.fixture(scope="module")
def small() -> tuple[nn.Module, bytes]:
    model = trained("small")
    return model, to_onnx(model, IMAGE)


def test_the_graph_keeps_the_contract(small: tuple[nn.Module, bytes]) -> None:
    proto = onnx.load_from_string(small[1])
    onnx.checker.check_model(proto, full_check=True)
    (images,), (logits,) = proto.graph.input, proto.graph.output
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
    assert to_onnx(small[0], IMAGE) == small[1]


def test_a_residual_network_answers_as_torch_does_at_every_batch_size() -> None:
    # Two folded batch-norms that read the same input once shared a bias in the exporter.
    model = trained("resnet20")
    record = parity(model, to_onnx(model, IMAGE), PIXELS, what="resnet20")
    assert record.batch_sizes == BATCH_SIZES == (1, 2, 7, 32)
    assert record.max_probability_difference < 1e-5


def test_a_file_with_one_weight_changed_is_refused(small: tuple[nn.Module, bytes]) -> None:
    model, data = small
    proto = onnx.load_from_string(data)
    bias = next(t for t in proto.graph.initializer if list(t.dims) == [4])
    changed = numpy_helper.to_array(bias) + np.array([0.01, 0, 0, 0], np.float32)
    bias.CopyFrom(numpy_helper.from_array(changed, bias.name))
    with pytest.raises(ParityFailed, match="cycle-00: at batch size 1 .* nothing was published"):
        parity(model, proto.SerializeToString(), PIXELS, what="cycle-00")


def test_a_file_that_answers_nan_is_refused(small: tuple[nn.Module, bytes]) -> None:
    model, data = small
    proto = onnx.load_from_string(data)
    bias = next(t for t in proto.graph.initializer if list(t.dims) == [4])
    nan = numpy_helper.from_array(np.full(4, np.nan, np.float32), bias.name)
    bias.CopyFrom(nan)
    with pytest.raises(ParityFailed):
        parity(model, proto.SerializeToString(), PIXELS, what="x")


def test_a_file_that_fails_only_for_larger_batches_is_refused() -> None:
    class FirstImageOnly(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.float().mean(dim=(2, 3))

    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["float"], to=onnx.TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["float", "axes"], ["means"], keepdims=0),
            helper.make_node("Slice", ["means", "zero", "one", "zero"], ["first"]),
            helper.make_node("Shape", ["means"], ["shape"]),
            helper.make_node("Expand", ["first", "shape"], ["logits"]),
        ],
        "first-only",
        [helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["b", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["b", 3])],
        [
            numpy_helper.from_array(np.array([2, 3]), "axes"),
            numpy_helper.from_array(np.array([0]), "zero"),
            numpy_helper.from_array(np.array([1]), "one"),
        ],
    )
    opset = [helper.make_opsetid("", 20)]
    data = helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    with pytest.raises(ParityFailed, match="at batch size 2"):
        parity(FirstImageOnly().eval(), data, PIXELS, what="x")


def test_a_network_that_fixes_the_batch_is_refused() -> None:
    class TwoAtATime(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.reshape(2, -1).float()[:, :4]

    with pytest.raises(ConversionFailed, match="batch dimension"):
        to_onnx(TwoAtATime(), IMAGE)
