"""Small real things for tests: pictures, members, bundles. Nothing here needs torch."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from snapensemble.contracts.abstention import AbstentionPoint, AbstentionRecord
from snapensemble.contracts.bundle import (
    BundleManifest,
    CalibrationRecord,
    Member,
    ParityRecord,
    Price,
    SelectionRecord,
    Trunk,
    write_bundle,
)
from snapensemble.contracts.cascade import CascadePoint, CascadeRecord
from snapensemble.contracts.drift import ReferenceRecord
from snapensemble.contracts.files import write_atomically
from snapensemble.contracts.manifest import Figures, ValFigures
from snapensemble.contracts.pixels import ImageContract
from snapensemble.contracts.prediction_sets import SetQuantile
from snapensemble.contracts.run import DataRecord

CLASSES = ("ant", "bee", "cow")
CONTRACT = ImageContract(channels=3, height=6, width=5, mean=(0.5,) * 3, std=(0.25,) * 3)
FEATURES = (4, 5, 4)  # of a trunk
DATA = DataRecord(
    spec="digits",
    fingerprint="0" * 64,
    split_seed=0,
    val_fraction=0.1,
    train_images=10,
    val_images=5,
    test_images=5,
)


def picture(seed: int = 0, *, width: int = 5, height: int = 6, mode: str = "RGB") -> Image.Image:
    """A picture of noise in a colour mode."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.frombytes(mode, (width, height), pixels.tobytes())


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def weights(seed: int, contract: ImageContract = CONTRACT) -> NDArray[np.float32]:
    """The matrix [inputs, classes] of one linear member."""
    shape = (int(np.prod(contract.shape)), len(CLASSES))
    return (np.random.default_rng(seed).normal(size=shape) / 50).astype(np.float32)


def linear_logits(seed: int, images_BCHW: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What `linear_member(seed)` must answer, in float64."""
    flat = images_BCHW.reshape(len(images_BCHW), -1).astype(np.float64) / 255
    return flat @ weights(seed).astype(np.float64) * 20


def linear_member(
    seed: int,
    *,
    batch: str | int = "batch",
    output: str = "logits",
    contract: ImageContract = CONTRACT,
) -> bytes:
    """An ONNX file: uint8 images -> a linear map of their pixels."""
    C, H, W = contract.shape
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "W"], [output]),
    ]
    return onnx_file(
        nodes,
        helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, C, H, W]),
        helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, len(CLASSES)]),
        {"W": weights(seed, contract) * np.float32(20 / 255)},
    )


def onnx_file(
    nodes: Sequence[onnx.NodeProto],
    inputs: onnx.ValueInfoProto,
    outputs: onnx.ValueInfoProto,
    tensors: dict[str, NDArray[np.float32]],
) -> bytes:
    """An ONNX file of these nodes and weights."""
    initializers = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "small", [inputs], [outputs], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def trunk_file() -> bytes:
    """An ONNX file: uint8 images -> features of a convolution."""
    return _network(None, trunk=True)


def member_on_trunk(seed: int, features: Sequence[int] = FEATURES) -> bytes:
    """An ONNX file: features of `trunk_file` -> logits."""
    return _network(seed, trunk=False, features=features)


def whole_network(seed: int) -> bytes:
    """An ONNX file: `trunk_file` and `member_on_trunk` in one."""
    return _network(seed, trunk=True)


def _network(seed: int | None, *, trunk: bool, features: Sequence[int] = FEATURES) -> bytes:
    C, size = CONTRACT.channels, int(np.prod(features))
    kernel = np.random.default_rng(99).normal(size=(FEATURES[0], C, 2, 2)) / 255
    nodes, tensors = [], {}
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *CONTRACT.shape])
    between = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", *features])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(CLASSES)])
    if trunk:
        nodes += [
            helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Conv", ["float", "kernel"], ["mapped"]),
            helper.make_node("Relu", ["mapped"], ["features"]),
        ]
        tensors["kernel"] = kernel.astype(np.float32)
    if seed is not None:
        matrix = np.random.default_rng(seed).normal(size=(size, len(CLASSES))) / 2
        nodes += [
            helper.make_node("Flatten", ["features"], ["flat"], axis=1),
            helper.make_node("MatMul", ["flat", "W"], ["logits"]),
        ]
        tensors["W"] = matrix.astype(np.float32)
    inputs, outputs = images if trunk else between, between if seed is None else logits
    return onnx_file(nodes, inputs, outputs, tensors)


def cascade_record(
    *thresholds: Sequence[float | None],
    temperatures: Sequence[float] = (1.5, 0.8),
    sets: float = 0.6,
    sure: float = 0.6,
) -> CascadeRecord:
    """A point per sequence of thresholds, each costing a percent less accuracy than the one before.

    The second point is the bundle's choice; `sets` is the quantile of the points' sets, and
    `sure` the threshold of their answers.
    """
    points = [
        CascadePoint(
            thresholds=tuple(values),
            accuracy_drop=(len(thresholds) - place) / 100,
            nll_rise=0,
            members_per_image=1.5,
            val=ValFigures(nll=0.4, accuracy=0.94),
            sets=set_quantiles(sets),
            abstention=abstention_record(sure),
        )
        for place, values in enumerate(thresholds)
    ]
    return CascadeRecord(
        rule="threshold",
        temperatures=tuple(temperatures),
        max_accuracy_drop=(len(thresholds) - 1) / 100,
        max_nll_rise=0.05,
        points=tuple(points),
    )


def set_quantiles(quantile: float) -> tuple[SetQuantile, ...]:
    """The quantiles of both methods, for a coverage of 0.9 only."""
    return (
        SetQuantile(method="adaptive", coverage=0.9, quantile=0.99),
        SetQuantile(method="least_ambiguous", coverage=0.9, quantile=quantile),
    )


def calibration_record(quantile: float, sure: float = 0.6) -> CalibrationRecord:
    """A calibration with `set_quantiles` and `abstention_record`."""
    figures = Figures(nll=0.4, accuracy=0.95, ece=0.02, adaptive_ece=0.02, brier=0.1)
    return CalibrationRecord(
        images=9,
        before=figures,
        after=figures,
        sets=set_quantiles(quantile),
        abstention=abstention_record(sure),
    )


def abstention_record(threshold: float) -> AbstentionRecord:
    """At most 20 % wrong answers are promised of all images, 10 % of those above a threshold."""
    points = [(None, 1.0, 4, 0.2), (threshold, 0.5, 1, 0.1)]
    return AbstentionRecord(
        confidence=0.95,
        images=40,
        points=tuple(
            AbstentionPoint(threshold=at, answered=share, errors=errors, error_bound=bound)
            for at, share, errors, bound in points
        ),
    )


def make_cascade_bundle(directory: Path) -> Path:
    """A bundle that can answer all that a request may ask for."""
    return make_bundle(
        directory,
        cascade=cascade_record((0.8, 0.5), (0.9, 0.7)),
        calibration=calibration_record(0.6),
    )


def make_bundle(
    directory: Path,
    files: list[bytes] | None = None,
    *,
    weights_M: list[float] | None = None,
    temperature: float = 1.0,
    cascade: CascadeRecord | None = None,
    calibration: CalibrationRecord | None = None,
    reference: ReferenceRecord | None = None,
    trunk: bytes | None = None,
    features: Sequence[int] = FEATURES,
    image: ImageContract = CONTRACT,
    classes: Sequence[str] = CLASSES,
) -> Path:
    """A bundle of linear members (seeds 0, 1, 2), or of the ONNX files given.

    With a trunk the files are members that take its features.
    """
    if files is None:
        make_member = linear_member if trunk is None else member_on_trunk
        files = [make_member(seed) for seed in range(3)]
    weights_M = weights_M or [1 / len(files)] * len(files)
    (directory / "members").mkdir(parents=True)
    members = []
    for cycle, (data, weight) in enumerate(zip(files, weights_M, strict=True)):
        file = f"members/cycle-{cycle:02d}.onnx"
        members.append(
            Member(
                name=f"cycle-{cycle:02d}",
                file=file,
                sha256=write_atomically(directory / file, data),
                weight=weight,
                cycle=cycle,
                step=cycle + 1,
                val=ValFigures(nll=0.5, accuracy=0.9),
            )
        )
    write_bundle(
        directory,
        BundleManifest(
            snapensemble="0",
            name="insects",
            version="0badcafe",
            classes=tuple(classes),
            image=image,
            trunk=None if trunk is None else _trunk(directory, trunk, features),
            members=tuple(members),
            price=None if trunk is None else Price(trunk=900, members=(100,) * len(files)),
            temperature=temperature,
            selection=SelectionRecord(rule="best", metric="nll", candidates=len(files)),
            val=ValFigures(nll=0.4, accuracy=0.95, macro_accuracy=0.9),
            calibration=calibration,
            cascade=cascade,
            reference=reference,
            opset=20,
            parity=ParityRecord(
                batch_sizes=(1,), max_logit_difference=0, max_probability_difference=0
            ),
            model="linear",
            data=DATA,
        ),
    )
    return directory


def _trunk(directory: Path, data: bytes, features: Sequence[int]) -> Trunk:
    sha256 = write_atomically(directory / "trunk.onnx", data)
    return Trunk(file="trunk.onnx", sha256=sha256, size=len(data), features=tuple(features))
