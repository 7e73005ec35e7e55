import logging
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from snapensemble.contracts.sessions import open_session
from snapensemble.export.acceptance import QuantizationRefused
from snapensemble.export.int8.quantize import IMAGES_AT_A_TIME, activation_ranges, to_int8
from snapensemble.export.parity import run_file
from tests.factories import linear_member
from tests.networks import METADATA, exported, noise_NCHW, optimised_kinds

PIXELS = noise_NCHW(16)


def member(name: str) -> bytes:
    return exported(name, 16)


@cache
def in_int8(name: str) -> bytes:
    return to_int8(member(name), PIXELS)


@pytest.mark.parametrize(
    "name", ["tiny", "resnet20", pytest.param("wrn-16-4", marks=pytest.mark.slow)]
)
def test_every_step_between_the_pixels_and_the_last_layer_is_computed_in_int8(
    name: str, tmp_path: Path
) -> None:
    kinds = optimised_kinds(in_int8(name), tmp_path)
    in_float = {"Conv", "Relu", "Add", "Mul", "Sub", "Cast", "QuantizeLinear", "GlobalAveragePool"}
    assert not in_float & set(kinds)
    # One before the last layer, and one for the maps that explain answers.
    assert kinds.count("DequantizeLinear") == 2 and kinds.count("Gemm") == 1


def test_the_input_and_the_output_stay_what_they_were() -> None:
    before, after = (onnx.load_from_string(f("tiny")).graph for f in (member, in_int8))
    assert list(after.input) == list(before.input)
    assert list(after.output) == list(before.output)
    session = open_session(in_int8("tiny"))
    for size in (1, 5, 40):
        (logits_BK,) = session.run(["logits"], {"images": PIXELS[:size]})
        assert (logits_BK.shape, logits_BK.dtype) == ((size, 4), np.float32)


def test_the_file_says_the_same_of_itself_and_that_it_is_int8() -> None:
    before, after = (onnx.load_from_string(f("tiny")) for f in (member, in_int8))
    said = {entry.key: entry.value for entry in after.metadata_props}
    assert said == METADATA | {"precision": "int8"}
    assert [entry.key for entry in after.metadata_props] == sorted(said)
    assert after.producer_name == before.producer_name == "snapensemble"
    assert after.graph.doc_string == before.graph.doc_string != ""


@pytest.mark.slow
def test_the_file_is_about_a_quarter() -> None:
    assert len(in_int8("wrn-16-4")) < 0.27 * len(member("wrn-16-4"))


def test_weights_have_seven_bits_so_that_no_processor_overflows() -> None:
    proto = onnx.load_from_string(in_int8("tiny"))
    weights = [
        numpy_helper.to_array(tensor)
        for tensor in proto.graph.initializer
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 4
    ]
    assert len(weights) == 4
    assert all(np.abs(each.astype(int)).max() == 64 for each in weights)
    assert 2 * 255 * 64 < 2**15  # two products, as processors without VNNI add them


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from snapensemble.export.int8.quantize import to_int8
given, pixels, out = map(Path, sys.argv[1:])
out.write_bytes(to_int8(given.read_bytes(), np.load(pixels)))
import os
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
"""


def test_the_same_file_and_images_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "given.onnx").write_bytes(member("tiny"))
    np.save(tmp_path / "pixels.npy", PIXELS)
    (tmp_path / "tmp").mkdir()
    files = [str(tmp_path / name) for name in ("given.onnx", "pixels.npy", "out.onnx")]
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"PYTHONHASHSEED": "42", "TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *files], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "out.onnx").read_bytes() == in_int8("tiny")
    assert os.listdir(tmp_path / "tmp") == []


def test_other_images_give_other_ranges() -> None:
    assert to_int8(member("tiny"), PIXELS // 2) != in_int8("tiny")


def test_logging_and_temporary_files_are_left_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    to_int8(member("tiny"), PIXELS[:4])
    assert (root.handlers, root.level) == (handlers, level)
    assert os.listdir(tmp_path) == []
    assert capfd.readouterr() == ("", "")


def test_a_network_in_which_nothing_can_be_int8_is_refused() -> None:
    with pytest.raises(QuantizationRefused, match="export it with --quantize none"):
        to_int8(linear_member(0), np.zeros((2, 3, 6, 5), np.uint8))


def test_one_that_does_not_begin_with_a_normalisation_is_quantised_too() -> None:
    weights = np.random.default_rng(0).normal(size=(16, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["x"], "cast", to=TensorProto.FLOAT),
            helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
            helper.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
            helper.make_node("Flatten", ["p"], ["logits"], "flatten"),
        ],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 16])],
        [numpy_helper.from_array(weights, "w")],
    )
    opset = [helper.make_opsetid("", 20)]
    given = helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    before, after = (run_file(file, PIXELS) for file in (given, to_int8(given, PIXELS)))
    assert 0 < np.abs(after - before).max() < 0.02 * np.abs(before).max()


def model() -> onnx.ModelProto:
    """A graph: images -> as float32 -> minus 100 -> the largest pixel of each."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["pixels", "hundred"], ["centred"]),
            helper.make_node("ReduceMax", ["centred", "axes"], ["logits"], keepdims=0),
        ],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 1, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])],
        [
            numpy_helper.from_array(np.array(100, np.float32), "hundred"),
            numpy_helper.from_array(np.array([2, 3]), "axes"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made)


def test_the_range_of_every_tensor_is_over_all_images() -> None:
    images = np.full((3 * IMAGES_AT_A_TIME + 1, 1, 2, 2), 90, np.uint8)
    images[IMAGES_AT_A_TIME + 3, 0, 1, 0] = 7
    images[-1, 0, 0, 1] = 201
    ranges = activation_ranges(model(), images)
    assert {name: tuple(map(float, each)) for name, each in ranges.items()} == {
        "pixels": (7, 201),
        "centred": (-93, 101),
        "logits": (-10, 101),
    }


def test_the_model_is_left_as_it_was() -> None:
    watched = model()
    before = watched.SerializeToString()
    activation_ranges(watched, np.zeros((2, 1, 2, 2), np.uint8))
    assert watched.SerializeToString() == before
