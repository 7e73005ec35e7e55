"""ensemble.json: what the export writes and the server reads."""

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from contracts.pixels import ImageContract
from contracts.records import (
    ClassNames,
    NonNegative,
    Record,
    RelativeFile,
    Sha256,
    ValFigures,
    read_manifest,
    write_manifest,
)
from contracts.run import DataRecord

BUNDLE_FILE = "ensemble.json"


class Member(Record):
    """One selected snapshot as ONNX: `images` uint8 [batch, C, H, W] -> `logits` [batch, K]."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    file: RelativeFile
    sha256: Sha256
    weight: Annotated[float, Field(gt=0, le=1)]
    run: Annotated[int, Field(ge=0)] = 0  # which of the pooled runs, as they were given
    cycle: Annotated[int, Field(ge=0)]
    step: Annotated[int, Field(ge=1)]
    val: ValFigures


class SelectionRecord(Record):
    """How the members were chosen, on the validation split."""

    rule: Literal["best", "last", "all"]
    metric: Literal["nll", "accuracy"]
    candidates: Annotated[int, Field(ge=1)]


class ParityRecord(Record):
    """The largest differences between torch and ONNX Runtime at export."""

    batch_sizes: tuple[int, ...]
    max_logit_difference: NonNegative
    max_probability_difference: NonNegative


class BundleManifest(Record):
    """An ensemble ready to be served; members best first."""

    format: Literal["snapshot-bundle"] = "snapshot-bundle"
    format_version: Literal[1] = 1
    snapensemble: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    version: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]  # from the content, see export.bundle
    classes: ClassNames
    image: ImageContract
    members: Annotated[tuple[Member, ...], Field(min_length=1)]
    temperature: Annotated[float, Field(gt=0)] = 1.0
    selection: SelectionRecord
    val: ValFigures  # of the averaged probabilities
    opset: Annotated[int, Field(ge=1)]
    parity: ParityRecord
    model: str
    data: DataRecord

    @model_validator(mode="after")
    def _members_add_up(self) -> "BundleManifest":
        if not math.isclose(sum(m.weight for m in self.members), 1.0, abs_tol=1e-9):
            raise ValueError("the members' weights must sum to 1")
        if len({m.name for m in self.members}) != len(self.members):
            raise ValueError("two members have the same name")
        return self

    @property
    def weights_M(self) -> list[float]:  # noqa: N802 # a shape suffix
        """One weight per member, summing to 1."""
        return [member.weight for member in self.members]


def read_bundle(bundle_dir: Path) -> BundleManifest:
    """The manifest of a bundle; InvalidManifest if there is none or it is not right."""
    return read_manifest(bundle_dir / BUNDLE_FILE, BundleManifest, made_by="snapensemble export")


def write_bundle(bundle_dir: Path, manifest: BundleManifest) -> None:
    """Write `bundle_dir/ensemble.json` atomically; the members must be there already."""
    write_manifest(bundle_dir / BUNDLE_FILE, manifest)
