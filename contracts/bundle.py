"""ensemble.json, which the export writes and the server reads."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from snapensemble.contracts.abstention import AbstentionRecord
from snapensemble.contracts.cascade import Cascade, CascadeRecord, Promise, first_weights
from snapensemble.contracts.drift import ReferenceRecord
from snapensemble.contracts.errors import InvalidManifest
from snapensemble.contracts.files import read_regular, sha256_of
from snapensemble.contracts.manifest import (
    MAX_MANIFEST_BYTES,
    ClassNames,
    Figures,
    FileSize,
    Fraction,
    NonNegative,
    Record,
    RelativeFile,
    Sha256,
    Temperature,
    ValFigures,
    read_manifest,
    write_manifest,
)
from snapensemble.contracts.metrics import Metric
from snapensemble.contracts.novelty import NoveltyRecord
from snapensemble.contracts.pixels import ImageContract
from snapensemble.contracts.prediction_sets import SetQuantile
from snapensemble.contracts.run import DataRecord, Weights

BUNDLE_FILE = "ensemble.json"
# Outputs that a part may have after its first one, for class activation maps.
MAPS, CLASS_WEIGHTS, CLASS_BIAS = "maps", "class_weights", "class_bias"
CLASS_DIRECTIONS = "class_directions"  # of the first member, where it knows what is novel
Rule = Literal["auto", "best", "last", "all", "greedy", "exhaustive", "soup"]
Precision = Literal["fp32", "int8"]
# How frequent the classes are for which a bundle answers: as when it was taught, or all equally.
ClassPrior = Literal["training", "uniform"]


class Trunk(Record):
    """What all members have in common: `images` uint8 [batch, C, H, W] -> `features` float32."""

    file: RelativeFile
    sha256: Sha256
    size: FileSize = None  # bytes
    precision: Precision = "fp32"
    features: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, max_length=3)]

    @property
    def name(self) -> str:
        """What messages and reports call it."""
        return "trunk"


class Price(Record):
    """What an image takes, in multiplications and additions; a fused pair counts as two."""

    trunk: Annotated[int, Field(ge=0)] = 0
    members: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]

    @property
    def in_single_networks(self) -> float:
        """The price of all members, in that of the trunk and the first of them alone."""
        return self.of_members(len(self.members))

    def of_members(self, count: float) -> float:
        """The price of so many members on average, in that of the trunk and the first alone."""
        mean = sum(self.members) / len(self.members)
        return (self.trunk + count * mean) / max(1, self.trunk + self.members[0])


class Member(Record):
    """One selected snapshot as ONNX: `images` uint8 [batch, C, H, W] -> `logits` [batch, K].

    In a bundle with a trunk it takes `features` float32 of the trunk instead of images.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    file: RelativeFile
    sha256: Sha256
    size: FileSize = None  # bytes
    # A member below a millionth adds nothing, and the first few's sum is too small to divide by.
    weight: Annotated[float, Field(ge=1e-6, le=1)]
    run: Annotated[int, Field(ge=0)] = 0  # which of the pooled runs, in the order they were given
    cycle: Annotated[int, Field(ge=0)]
    weights: Weights = "last"  # the cycle's last ones, or an average
    step: Annotated[int, Field(ge=1)]
    precision: Precision = "fp32"
    val: ValFigures  # as the run measured it on the whole validation split


class Gain(Record):
    """What the ensemble gains over a single network, on images that chose neither of them.

    Both are calibrated on the selection split. The intervals are two-sided, from paired differences
    image by image.
    """

    over: Literal["last", "best_single"]  # the last snapshot, or the one with the lowest loss
    member: str  # its name
    images: Annotated[int, Field(ge=2)]
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    nll: tuple[float, float, float]  # how much lower, nats: estimate, low end, high end
    accuracy: tuple[float, float, float]  # how much higher, fraction: the same
    # Likewise; None: too few images of some class, or an earlier version.
    macro_accuracy: tuple[float, float, float] | None = None


class SelectionRecord(Record):
    """How the members were chosen on the selection split, one half of the validation split."""

    rule: Rule
    metric: Metric
    candidates: Annotated[int, Field(ge=1)]
    images: Annotated[int, Field(ge=1)] | None = None  # None: the whole split
    reason: str | None = None  # a sentence
    gains: tuple[Gain, ...] = ()


class CalibrationRecord(Record):
    """Figures of the calibration split, the half of the validation split that chose nothing."""

    images: Annotated[int, Field(ge=1)]
    before: Figures  # of the averaged probabilities, without the temperature
    after: Figures  # with the temperature
    sets: tuple[SetQuantile, ...]  # for the calibrated probabilities of all members
    abstention: AbstentionRecord | None = None  # of the same; None: not said


class QuantizationRecord(Record):
    """What int8 changed on the validation split; the export refuses a change beyond the limits."""

    images: Annotated[int, Field(ge=1)]  # validation images
    accuracy_drop: float  # of the averaged probabilities; below 0 if int8 is better
    nll_rise: float  # relative
    agreement: Annotated[float, Field(ge=0, le=1)]  # share of images with the same top class
    max_accuracy_drop: NonNegative
    max_nll_rise: NonNegative
    min_agreement: Annotated[float, Field(ge=0, le=1)]
    promise: Promise = "estimate"  # what keeps the limits
    confidence: Fraction | None = None  # of the bounds, one-sided; None: there are none
    accuracy_drop_bound: float | None = None  # at most
    nll_rise_bound: float | None = None  # at most
    agreement_bound: Fraction | None = None  # at least

    @model_validator(mode="after")
    def _bounds_are_there(self) -> "QuantizationRecord":
        bounds = (self.confidence, self.accuracy_drop_bound, self.nll_rise_bound)
        if self.promise == "bound" and None in (*bounds, self.agreement_bound):
            raise ValueError("a promise by bounds needs their confidence and three bounds")
        return self


class ParityRecord(Record):
    """The largest differences between torch and ONNX Runtime at export."""

    batch_sizes: tuple[int, ...]
    max_logit_difference: NonNegative
    max_probability_difference: NonNegative


class BundleManifest(Record):
    """The manifest of an ensemble that is ready to be served; the best member comes first."""

    format: Literal["snapshot-bundle"] = "snapshot-bundle"
    format_version: Literal[1, 2] = 2  # 2: may have a trunk, and a price
    snapensemble: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    version: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]  # from the content, see export.bundle
    classes: ClassNames
    image: ImageContract
    trunk: Trunk | None = None  # None: every member takes images
    members: Annotated[tuple[Member, ...], Field(min_length=1, max_length=1_000)]
    price: Price | None = None  # None: not said, as in version 1
    temperature: Temperature = 1.0
    # Written only where it is another one, so that earlier versions read all other bundles.
    class_prior: ClassPrior = Field("training", exclude_if=lambda prior: prior == "training")
    selection: SelectionRecord
    val: ValFigures  # of the ensemble on the whole validation split, half of which chose it
    calibration: CalibrationRecord | None = None
    cascade: CascadeRecord | None = None
    reference: ReferenceRecord | None = None  # what drift is measured against
    novelty: NoveltyRecord | None = None  # None: nobody looked
    quantization: QuantizationRecord | None = None
    opset: Annotated[int, Field(ge=1)]
    parity: ParityRecord
    model: str
    data: DataRecord

    @model_validator(mode="after")
    def _members_add_up(self) -> "BundleManifest":
        if not math.isclose(sum(m.weight for m in self.members), 1.0, abs_tol=1e-9):
            raise ValueError("the members' weights must sum to 1")
        if len({part.name for part in self.parts}) != len(self.parts):
            raise ValueError("two members have the same name, or one has the trunk's")
        return self

    @model_validator(mode="after")
    def _the_price_fits(self) -> "BundleManifest":
        if self.price is not None and len(self.price.members) != len(self.members):
            raise ValueError("the price must have one number for each member")
        if self.format_version == 1 and (self.trunk is not None or self.price is not None):
            raise ValueError("format version 1 knows no trunk and no price")
        return self

    @model_validator(mode="after")
    def _the_cascade_fits(self) -> "BundleManifest":
        steps = len(self.members) - 1
        if self.cascade is not None and (
            len(self.cascade.temperatures) != steps
            or any(len(point.thresholds) != steps for point in self.cascade.points)
        ):
            raise ValueError(f"the cascade must have {steps} temperatures and thresholds")
        return self

    @property
    def parts(self) -> tuple[Trunk | Member, ...]:
        """Every ONNX file: the trunk first, if there is one, then the members."""
        return self.members if self.trunk is None else (self.trunk, *self.members)

    @property
    def weights_M(self) -> list[float]:  # noqa: N802 # a shape suffix
        """One weight per member, summing to 1."""
        return [member.weight for member in self.members]

    def weights_of_first(self, depth: int) -> list[float]:
        """The weights of the first `depth` members, summing to 1."""
        return (
            self.weights_M if depth == len(self.members) else first_weights(self.weights_M, depth)
        )

    def temperature_of_first(self, depth: int) -> float:
        """The temperature of the average of the first `depth` members."""
        if self.cascade is None or depth == len(self.members):
            return self.temperature
        return self.cascade.temperatures[depth - 1]

    def weights_of(self, members: Sequence[int]) -> list[float]:
        """The weights of some of the members, by their places, summing to 1."""
        return first_weights([self.weights_M[place] for place in members], len(members))

    def temperature_of(self, members: Sequence[int]) -> float:
        """The temperature for the average of some members: the bundle's unless they come first."""
        if list(members) == list(range(len(members))):
            return self.temperature_of_first(len(members))
        return self.temperature

    def cascade_at(self, max_accuracy_drop: float | None = None) -> Cascade | None:
        """The cascade at the point that a tolerance picks; None if the bundle carries none."""
        if self.cascade is None:
            return None
        return self.cascade.at(self.cascade.point(max_accuracy_drop), self.weights_M)


def read_bundle(bundle_dir: Path, expected_sha256: str | None = None) -> BundleManifest:
    """Read the manifest of a bundle and check it.

    Args:
        bundle_dir: made by `snapensemble export`.
        expected_sha256: the only hash that the manifest may have; it lists those of all members.

    Raises:
        InvalidManifest: there is no manifest, or it is not right.
    """
    return read_manifest(
        bundle_dir / BUNDLE_FILE,
        BundleManifest,
        made_by="snapensemble export",
        expected_sha256=expected_sha256,
    )


def manifest_sha256(bundle_dir: Path) -> str:
    """The SHA-256 of `ensemble.json`, which stands for the whole bundle, without its report.

    Raises:
        InvalidManifest: the file is absent, no regular file, too large, or cannot be read.
    """
    file = bundle_dir / BUNDLE_FILE
    try:
        return sha256_of(read_regular(file, MAX_MANIFEST_BYTES))
    except OSError as error:
        raise InvalidManifest(f"{file}: {error.strerror or error}") from error


def write_bundle(bundle_dir: Path, manifest: BundleManifest) -> None:
    """Write `bundle_dir/ensemble.json` atomically; the members must be there already."""
    write_manifest(bundle_dir / BUNDLE_FILE, manifest)
