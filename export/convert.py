"""A torch model -> the bytes of one ONNX file with a symbolic batch dimension."""

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator

import onnx
import torch
from torch import nn

from contracts.errors import SnapensembleError
from contracts.pixels import ImageContract

OPSET = 20


class ConversionFailed(SnapensembleError):
    """The exporter made a graph that does not keep the contract."""


def to_onnx(model: nn.Module, image: ImageContract) -> bytes:
    """Convert a network that takes uint8 images; the same network gives the same bytes.

    Returns:
        A whole ONNX file: `images` uint8 [batch, C, H, W] -> `logits` float32 [batch, K].

    Raises:
        ConversionFailed: the batch dimension was fixed, or a batch-norm was left unfolded.
    """
    # Two images: with one, the exporter may take the batch for a constant.
    example_BCHW = torch.zeros(2, *image.shape, dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            model.eval(),
            (example_BCHW,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _check(proto)
    return bytes(_without_traces(proto).SerializeToString(deterministic=True))


def _check(proto: onnx.ModelProto) -> None:
    onnx.checker.check_model(proto, full_check=True)
    for value in (*proto.graph.input, *proto.graph.output):
        batch = value.type.tensor_type.shape.dim[0]
        # The exporter replaces a dimension that the model fixes by a constant, without an error.
        if not batch.dim_param:
            raise ConversionFailed(
                f"{value.name}: the batch dimension became {batch.dim_value}; the network must "
                "not depend on the batch size"
            )
    if _unfolded(proto.graph):
        raise ConversionFailed("a batch normalisation was not folded into its convolution")


def _unfolded(graph: onnx.GraphProto) -> bool:
    """Whether a batch-norm is the only reader of a convolution, or was exported in training mode.

    One that comes before its convolution (pre-activation networks, DenseNet) has to stay.
    """
    readers = Counter(name for node in graph.node for name in node.input)
    convolved = {name for node in graph.node if node.op_type == "Conv" for name in node.output}
    return any(
        (node.input[0] in convolved and readers[node.input[0]] == 1)
        or any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
        for node in graph.node
        if node.op_type == "BatchNormalization"
    )


def _without_traces(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without stack traces: they hold this machine's paths and differ between runs."""
    proto.doc_string = ""
    del proto.metadata_props[:]
    graph = proto.graph
    graph.doc_string = ""
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    return proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress notes and its advice about torchvision off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
