"""A torch model -> the bytes of one ONNX file with a symbolic batch dimension."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version

import onnx
import torch
from onnx import helper, shape_inference
from torch import nn

from contracts.pixels import ImageContract
from export.explain import graph_sentence
from export.rewrite import ConversionFailed, fold_batch_norms, pool_globally

OPSET = 20


def to_onnx(
    model: nn.Module, image: ImageContract, metadata: Mapping[str, str] | None = None
) -> bytes:
    """Convert a network that takes uint8 images.

    Args:
        model: the network; it is put into evaluation mode.
        image: what it takes.
        metadata: kept in the file, see `export.explain`.

    Returns:
        A whole ONNX file: `images` uint8 [batch, C, H, W] -> `logits` float32 [batch, K]. The same
        network and metadata give the same bytes.

    Raises:
        ConversionFailed: the batch dimension was fixed, or a batch normalisation would still learn.
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
    proto = _without_traces(program.model_proto)
    fold_batch_norms(proto.graph)
    pool_globally(proto.graph)
    proto = shape_inference.infer_shapes(proto)
    _check(proto)
    _explain(proto, image, metadata or {})
    return bytes(proto.SerializeToString(deterministic=True))


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


def _explain(proto: onnx.ModelProto, image: ImageContract, metadata: Mapping[str, str]) -> None:
    proto.producer_name, proto.producer_version = "snapensemble", version("snapensemble")
    classes = proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    proto.graph.doc_string = graph_sentence(image, classes)
    helper.set_model_props(proto, dict(sorted(metadata.items())))


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
