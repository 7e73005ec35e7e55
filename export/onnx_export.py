"""Converting torch networks to the bytes of ONNX files with a symbolic batch dimension."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Literal, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference
from torch import Tensor, nn

from snapensemble.contracts.bundle import MAPS, Precision
from snapensemble.contracts.pixels import ImageContract
from snapensemble.contracts.run import RunManifest, ScheduleRecord, Snapshot
from snapensemble.export.class_maps import expose_maps
from snapensemble.export.onnx_graph import (
    ConversionFailed,
    constants,
    fold_batch_norms,
    pool_globally,
    subtract_from_output,
)

Value = tuple[str, str, tuple[int, ...]]  # name, type, shape of one image's part

OPSET = 20
COUNTER = "num_batches_tracked"  # of a batch normalisation; evaluation has no use for it
DATA_KINDS = (
    *("digits", "cifar10", "cifar100", "mnist", "fashion-mnist", "npz"),
    *("csv", "parquet", "hf", "wds"),
)


class Graph(NamedTuple):
    """A network's graph as torch gave it, not optimised yet, with the network's own weights."""

    proto: onnx.ModelProto
    state: dict[str, Tensor]  # of the network
    weights: frozenset[str]  # those of its tensors that are constants of the graph by their names


class Converter:
    """Converts networks that take the same images to ONNX.

    torch takes seconds for a network, and only its weights make it another than the next one of its
    architecture. So each architecture is converted once, before anything is folded into its
    weights, and a further network puts its own weights into a copy of that graph.

    Args:
        image: what the networks take.
    """

    def __init__(self, image: ImageContract) -> None:
        self._image = image
        self._graphs: dict[str, Graph] = {}

    def convert(
        self,
        network: nn.Module,
        metadata: Mapping[str, str],
        *,
        architecture: str = "",
        features: tuple[int, ...] | None = None,
        gives: Literal["logits", "features"] = "logits",
        offsets_K: NDArray[np.float64] | None = None,
    ) -> bytes:
        """Convert a network, which is put into evaluation mode.

        Args:
            network: whole, or a trunk, or a member behind one.
            metadata: kept in the file, see `member_metadata`.
            architecture: the same text for networks that differ in nothing but their weights.
            features: the shape that a member behind a trunk takes; None: uint8 images.
            gives: what the output is called.
            offsets_K: subtracted from each class's logit.

        Returns:
            A whole ONNX file: `images` uint8 [batch, C, H, W] or `features` float32 -> `logits` or
            `features` float32, and what `expose_maps` adds to them. The same network and metadata
            give the same bytes.

        Raises:
            ConversionFailed: the batch dimension was fixed, or a batch normalisation would still
                learn.
        """
        network = network.eval()
        graph = self._graphs.get(architecture)
        if graph is None or not _fits(graph, network):
            # Two images: with one, the exporter may take the batch for a constant.
            example = (
                torch.zeros(2, *self._image.shape, dtype=torch.uint8)
                if features is None
                else torch.zeros(2, *features)
            )
            graph = converted(network, example, gives)
            self._graphs[architecture] = graph
        proto = _optimised(_with_weights(graph, network), offsets_K)
        _check(proto)
        _explain(proto, self._image, metadata)
        return bytes(proto.SerializeToString(deterministic=True))


def to_onnx(
    model: nn.Module, image: ImageContract, metadata: Mapping[str, str] | None = None
) -> bytes:
    """Convert one whole network, see `Converter.convert`."""
    return Converter(image).convert(model, metadata or {})


def converted(network: nn.Module, example: Tensor, gives: str) -> Graph:
    """The graph of a network as torch converts it, which takes seconds.

    Args:
        network: in evaluation mode.
        example: two images, uint8, or their features, float32.
        gives: the name of the output.
    """
    with _quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images" if example.dtype == torch.uint8 else "features"],
            output_names=[gives],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            external_data=False,
            optimize=False,  # which would fold the weights into one another
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    state, arrays = dict(network.state_dict()), constants(proto.graph)
    weights = {
        name
        for name, tensor in state.items()
        if name in arrays and np.array_equal(arrays[name], tensor.numpy(), equal_nan=True)
    }
    return Graph(proto, state, frozenset(weights))


def _fits(graph: Graph, network: nn.Module) -> bool:
    """Whether all that makes a network another one than the graph's are constants of the graph."""
    state = network.state_dict()
    return state.keys() == graph.state.keys() and all(
        (name in graph.weights and tensor.shape == graph.state[name].shape)
        or name.endswith(COUNTER)
        or torch.equal(tensor, graph.state[name])
        for name, tensor in state.items()
    )


def _with_weights(graph: Graph, network: nn.Module) -> onnx.ModelProto:
    proto, state = onnx.ModelProto(), network.state_dict()
    proto.CopyFrom(graph.proto)
    for constant in proto.graph.initializer:
        if constant.name in graph.weights:
            constant.CopyFrom(numpy_helper.from_array(state[constant.name].numpy(), constant.name))
    return proto


def _optimised(proto: onnx.ModelProto, offsets_K: NDArray[np.float64] | None) -> onnx.ModelProto:
    from onnxscript import optimizer  # takes a second

    with _quiet():
        proto = _without_traces(optimizer.optimize(proto))
    fold_batch_norms(proto.graph)
    pool_globally(proto.graph)
    if offsets_K is not None:
        subtract_from_output(proto.graph, offsets_K)
    proto = shape_inference.infer_shapes(proto)
    expose_maps(proto)
    return proto


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


def trunk_metadata(run: RunManifest) -> dict[str, str]:
    """What a trunk is the first part of, and what it takes."""
    return {
        "image": run.image.model_dump_json(),
        "model": run.training.model,
        "tune": run.training.tune,  # where the members begin
        "precision": "fp32",
        "snapensemble": version("snapensemble"),
    }


def graph_sentence(image: ImageContract, *values: Value) -> str:
    """The graph's input and outputs, for its `doc_string`."""
    colours = "RGB" if image.channels == 3 else "grey"
    notes = {
        "images": f", {colours}, 0 to 255, as decoded: the normalisation is inside",
        "features": ", of the bundle's trunk",
        "logits": ", a softmax makes them probabilities",
        MAPS: ", whose means the last layer reads",
    }
    return "; ".join(
        f"{name}: {kind} [batch, {', '.join(map(str, shape))}]{notes[name]}"
        for name, kind, shape in values
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
    for value in (proto.graph.input[0], proto.graph.output[0]):
        batch = value.type.tensor_type.shape.dim[0]
        # The exporter replaces a dimension that the model fixes by a constant, without an error.
        if not batch.dim_param:
            raise ConversionFailed(
                f"{value.name}: the batch dimension became {batch.dim_value}; the network must "
                "not depend on the batch size"
            )


def _explain(proto: onnx.ModelProto, image: ImageContract, metadata: Mapping[str, str]) -> None:
    proto.producer_name, proto.producer_version = "snapensemble", version("snapensemble")
    shown = [value for value in proto.graph.output if not value.name.startswith("class_")]
    proto.graph.doc_string = graph_sentence(image, *map(value_of, (proto.graph.input[0], *shown)))
    helper.set_model_props(proto, dict(sorted(metadata.items())))


def value_of(value: onnx.ValueInfoProto) -> Value:
    """The name, the type and the shape of a graph's input or output."""
    tensor = value.type.tensor_type
    kind = "uint8" if tensor.elem_type == onnx.TensorProto.UINT8 else "float32"
    return value.name, kind, tuple(side.dim_value for side in tensor.shape.dim[1:])


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
