"""What an ONNX file may hold, wherever in it and however it is written."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper

from snapensemble.contracts.protobuf.onnx_files import MAX_FIELDS, RefusedOnnx, check_onnx
from snapensemble.contracts.sessions import open_session
from tests.factories import linear_member


def stranger(location: str = "secret.bin", *, size: int = 90 * 3) -> TensorProto:
    """Weights that lie in another file."""
    tensor = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[size // 3, 3])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(size * 4))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def member() -> ModelProto:
    return onnx.load_from_string(linear_member(0))


def with_node(node: NodeProto) -> ModelProto:
    model = member()
    model.graph.node.append(node)
    return model


def constant(**attributes: Any) -> NodeProto:
    """A node whose attributes hold what is given."""
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.append(AttributeProto(name="value", **attributes))
    return node


def in_initializer() -> ModelProto:
    model = member()
    del model.graph.initializer[:]
    model.graph.initializer.append(stranger())
    return model


def in_sparse_initializer() -> ModelProto:
    model = member()
    model.graph.sparse_initializer.append(SparseTensorProto(values=stranger()))
    return model


def in_sparse_indices() -> ModelProto:
    model = member()
    model.graph.sparse_initializer.append(SparseTensorProto(indices=stranger()))
    return model


def in_attribute() -> ModelProto:
    return with_node(constant(type=AttributeProto.TENSOR, t=stranger()))


def in_attributes() -> ModelProto:
    return with_node(constant(type=AttributeProto.TENSORS, tensors=[stranger()]))


def in_sparse_attribute() -> ModelProto:
    sparse = SparseTensorProto(values=stranger())
    return with_node(constant(type=AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse))


def in_sparse_attributes() -> ModelProto:
    sparse = SparseTensorProto(values=stranger())
    return with_node(constant(type=AttributeProto.SPARSE_TENSORS, sparse_tensors=[sparse]))


def in_subgraph() -> ModelProto:
    return with_node(constant(type=AttributeProto.GRAPH, g=in_attribute().graph))


def in_subgraphs() -> ModelProto:
    return with_node(constant(type=AttributeProto.GRAPHS, graphs=[in_initializer().graph]))


def in_function() -> ModelProto:
    model = member()
    nodes = [constant(type=AttributeProto.TENSOR, t=stranger())]
    model.functions.append(
        helper.make_function("own", "F", [], ["c"], nodes, [helper.make_opsetid("", 20)])
    )
    return model


def in_training() -> ModelProto:
    model = member()
    model.training_info.add().initialization.CopyFrom(in_initializer().graph)
    return model


PLACES = [
    in_initializer,
    in_sparse_initializer,
    in_sparse_indices,
    in_attribute,
    in_attributes,
    in_sparse_attribute,
    in_sparse_attributes,
    in_subgraph,
    in_subgraphs,
    in_function,
    in_training,
]


def test_a_member_is_let_through() -> None:
    check_onnx(linear_member(0))


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_weights_in_another_file_are_refused_wherever_they_are_named(
    place: Callable[[], ModelProto],
) -> None:
    with pytest.raises(RefusedOnnx, match="another file|training algorithm|functions of its own"):
        check_onnx(place().SerializeToString())


def test_every_kind_of_message_that_onnx_has_is_known_or_holds_no_weights() -> None:
    """A field of a later version of ONNX that can hold weights or operators is not overlooked."""
    from snapensemble.contracts.protobuf.onnx_files import _MESSAGES, _REFUSED

    harmless, seen = set(), set()
    waiting = [ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop()
        if message.name in seen:
            continue
        seen.add(message.name)
        for field in message.fields:
            known = _MESSAGES.get(message.name, {}).get(field.number)
            if field.message_type is None or (message.name, field.number) in _REFUSED:
                continue
            if known is None:
                harmless.add(field.message_type.name)
            else:
                assert known == field.message_type.name
            waiting.append(field.message_type)
    assert not harmless & set(_MESSAGES)


@pytest.mark.parametrize("key", ["location", "offset", "anything"])
def test_any_mention_of_external_data_is_refused_even_where_the_location_is_said_to_be_inside(
    key: str,
) -> None:
    model = member()
    model.graph.initializer[0].external_data.add(key=key, value="x")
    with pytest.raises(RefusedOnnx, match="weights in another file"):
        check_onnx(model.SerializeToString())


def test_a_location_written_as_a_larger_number_is_the_same_location() -> None:
    """Protocol buffers cut a number to 32 bits: 2 ** 32 + 1 says EXTERNAL too."""
    tensor = b"\x70" + b"\x81\x80\x80\x80\x10"  # field 14
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    assert ModelProto.FromString(b"\x3a" + bytes([len(graph)]) + graph).graph.initializer[0]
    with pytest.raises(RefusedOnnx, match="weights in another file"):
        check_onnx(b"\x3a" + bytes([len(graph)]) + graph)


@pytest.mark.parametrize("location", ["secret.bin", "../cwd/secret.bin", "{cwd}/secret.bin"])
def test_onnx_runtime_never_sees_a_file_that_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    directory = tmp_path / "cwd"
    directory.mkdir()
    np.zeros(270, np.float32).tofile(directory / "secret.bin")
    monkeypatch.chdir(directory)
    opened: list[object] = []
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: opened.append(1))
    model = member()
    del model.graph.initializer[:]
    model.graph.initializer.append(stranger(location.format(cwd=directory)))
    with pytest.raises(RefusedOnnx):
        open_session(model.SerializeToString())
    assert not opened


@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.ml", "own", " "])
def test_operators_beyond_the_standard_are_refused(domain: str) -> None:
    """Such as EPContext, which names a file that ONNX Runtime reads."""
    node = helper.make_node("EPContext", ["images"], ["x"], domain=domain)
    with pytest.raises(RefusedOnnx, match="an operator of"):
        check_onnx(with_node(node).SerializeToString())


def test_onnx_runtimes_own_format_is_refused(tmp_path: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.optimized_model_filepath = str(tmp_path / "member.ort")
    onnxruntime.InferenceSession(linear_member(0), options)
    data = (tmp_path / "member.ort").read_bytes()
    onnxruntime.InferenceSession(data)  # which would take it
    with pytest.raises(RefusedOnnx):
        open_session(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x3a",
        b"\x3a\x05ab",
        b"\xff" * 12,
        b"\x00\x00",
        b"\x0b\x0c",  # a group
        b"\x3a\x00\x3a\x00",  # two graphs, which would be merged
        b"PK\x03\x04 a zip file",
    ],
)
def test_what_is_no_onnx_file_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedOnnx):
        check_onnx(data)


def test_graphs_inside_each_other_do_not_end_the_program() -> None:
    data = b""
    for _ in range(2_000):  # an attribute that holds a graph with one node with that attribute
        for key in (b"\x32", b"\x2a", b"\x0a"):
            data = key + length(data) + data
    with pytest.raises(RefusedOnnx, match="beyond 32 levels"):
        check_onnx(b"\x3a" + length(data) + data)


def length(data: bytes) -> bytes:
    size, written = len(data), b""
    while size > 0x7F:
        written, size = written + bytes([size & 0x7F | 0x80]), size >> 7
    return written + bytes([size])


def test_a_file_of_millions_of_fields_is_refused_in_bounded_time() -> None:
    data = b"\x08\x01" * (4 * MAX_FIELDS)
    started = time.process_time()
    with pytest.raises(RefusedOnnx, match="more than 1,000,000 fields"):
        check_onnx(data)
    assert time.process_time() - started < 20


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_let_through(data: bytes) -> None:
    try:
        check_onnx(data)
    except RefusedOnnx:
        pass


@given(st.data())
def test_a_changed_file_that_names_another_is_never_let_through(data: st.DataObject) -> None:
    """Whatever else is changed: what protocol buffers read as external data is refused."""
    whole = bytearray(in_initializer().SerializeToString())
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
    try:
        check_onnx(bytes(whole))
    except RefusedOnnx:
        return
    try:
        model = ModelProto.FromString(bytes(whole))
    except DecodeError:
        return
    assert not any(
        tensor.external_data or tensor.data_location for tensor in model.graph.initializer
    )


def test_onnx_runtime_looks_for_the_file_where_nobody_checks() -> None:
    import onnxruntime

    model = member()
    del model.graph.initializer[:]
    model.graph.initializer.append(stranger(f"no-such-{os.getpid()}.bin"))
    with pytest.raises(Exception, match="xternal"):
        onnxruntime.InferenceSession(model.SerializeToString())
