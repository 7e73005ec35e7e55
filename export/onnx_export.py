"""Converting a torch model to the bytes of one ONNX file with a symbolic batch dimension."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version

import onnx
import torch
from onnx import helper, shape_inference
from torch import nn

from snapensemble.contracts.bundle import Precision
from snapensemble.contracts.pixels import ImageContract
from snapensemble.contracts.run import RunManifest, ScheduleRecord, Snapshot
from snapensemble.export.onnx_graph import ConversionFailed, fold_batch_norms, pool_globally

OPSET = 20
DATA_KINDS = ("digits", "cifar10", "cifar100", "mnist", "fashion-mnist", "npz")


def to_onnx(
    model: nn.Module, image: ImageContract, metadata: Mapping[str, str] | None = None
) -> bytes:
    """Convert a network that takes uint8 images.

    Args:
        model: the network; it is put into evaluation mode.
        image: what the network takes.
        metadata: kept in the file, see `member_metadata`.

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


def member_metadata(
    run: RunManifest, snapshot: Snapshot, *, member: str, precision: Precision = "fp32"
) -> dict[str, str]:
    """Where a member comes from and what it takes, with no path of the machine that trained it."""
    return {
        "classes": json.dumps(run.classes, ensure_ascii=False),  # in the order of the logits
        "image": run.image.model_dump_json(),
        "member": member,
        "model": run.training.model,
        "data": data_kind(run.data.spec),
        "schedule": schedule_in_short(run.schedule),
        "seed": str(run.training.seed),
        "cycle": str(snapshot.cycle),  # from 0
        "weights": snapshot.weights,
        "step": str(snapshot.step),
        "val_nll": f"{snapshot.val.nll:.6f}",
        "val_accuracy": f"{snapshot.val.accuracy:.6f}",
        "precision": precision,
        "snapensemble": version("snapensemble"),
    }


def graph_sentence(image: ImageContract, classes: int) -> str:
    """The graph's input and output, for its `doc_string`."""
    colours = "RGB" if image.channels == 3 else "grey"
    shape = ", ".join(str(side) for side in image.shape)
    return (
        f"images: uint8 [batch, {shape}], {colours}, 0 to 255, as decoded: the normalisation is "
        f"inside; logits: float32 [batch, {classes}], a softmax makes them probabilities"
    )


def data_kind(spec: str) -> str:
    """The kind of a data set, without its path."""
    kind = spec.partition(":")[0]
    return kind if kind in DATA_KINDS else "folder"


def schedule_in_short(schedule: ScheduleRecord) -> str:
    """The schedule in one line, with lengths in optimizer steps."""
    return (
        f"{schedule.name}: {schedule.cycles} cycles, {schedule.total_steps} steps, "
        f"T_0 {schedule.T_0}, T_mult {schedule.T_mult:g}, "
        f"eta_max {schedule.eta_max:g}, eta_min {schedule.eta_min:g}"
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
