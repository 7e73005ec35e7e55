"""ExportConfig: everything that decides what an export makes of a run."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypedDict

from pydantic import Field, JsonValue, field_validator, model_validator

from snapensemble.contracts.bundle import ClassPrior, Rule
from snapensemble.contracts.cascade import Promise
from snapensemble.contracts.errors import Misfit
from snapensemble.contracts.metrics import Metric
from snapensemble.contracts.options import Options
from snapensemble.contracts.prediction_sets import SetKind
from snapensemble.contracts.run import Weights

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
X: dict[str, JsonValue] = {"metavar": "X"}
DEFAULT_MEMBERS = 3  # for the rules `best` and `last`
MIN_IMAGES = 500  # that test a cascade; with fewer, hardly a threshold can be shown to be safe


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Limits:
    """How much int8 may change; docs/decisions/0011 has what it changes, 0033 the bounds."""

    max_accuracy_drop: float  # fraction
    max_nll_rise: float  # relative
    min_agreement: float  # share of images
    promise: Promise = "bound"  # what must be within the limits


class ExportConfig(Options):
    """The settings of an export; fractions are in [0, 1], and rises are relative."""

    members: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        None,
        description="how many; the rule auto finds their number if none is given, and for the "
        "others auto is the fewest within one standard error of the best "
        f"({DEFAULT_MEMBERS} of best and last; greedy and exhaustive find their number)",
        json_schema_extra={"metavar": "M"},
    )
    select: Rule = Field(
        "auto",
        description="auto: the cheapest of averages and single networks that is not worse than "
        "the best; or the best by --metric, the last M, all, forward selection with weights, the "
        "best of all subsets, one network with the mean weights of several",
    )
    weights: Weights | None = Field(
        None,
        description="what the rules other than auto choose from: each cycle's last weights, their "
        "moving average, the average over its tail, or soups of several cycles (last)",
    )
    metric: Metric = Field(
        "nll",
        description="validation figure to choose by; macro: accuracy with every class counting "
        "the same, for classes of unequal size",
    )
    class_prior: ClassPrior = Field(
        "training",
        description="for which class frequencies the members answer: those that they were taught "
        "with, or as if all classes were equally frequent",
    )
    quantize: Literal["none", "int8"] = Field(
        "none", description="int8: smaller and faster members, if validation agrees"
    )
    cascade: bool | None = Field(
        None,
        description="fit when an image needs no further member (where 95 % confidence bounds on at "
        f"least {MIN_IMAGES} images keep the limits; asked for, an estimate will do)",
    )
    max_accuracy_drop: float = Field(
        0.005,
        ge=0,
        le=1,
        description="accuracy that a cascade may lose against all members, fraction",
        json_schema_extra=X,
    )
    max_nll_rise: float = Field(
        0.02,
        ge=0,
        description="NLL that a cascade may gain against all members, relative",
        json_schema_extra=X,
    )
    max_int8_accuracy_drop: float = Field(
        0.005,
        ge=0,
        le=1,
        description="accuracy that int8 may lose, fraction",
        json_schema_extra=X,
    )
    max_int8_nll_rise: float = Field(
        0.05, ge=0, description="NLL that int8 may gain, relative", json_schema_extra=X
    )
    min_int8_agreement: float = Field(
        0.97,
        ge=0,
        le=1,
        description="images whose top class int8 must keep, fraction",
        json_schema_extra=X,
    )
    int8_gate: Promise = Field(
        "bound",
        description="what must be within the limits of int8: 95 % confidence bounds, or estimates",
    )
    sets: SetKind = Field(
        "marginal",
        description="prediction sets hold the right class as often as promised: on average over "
        "all images, or over those of each class",
    )
    data: str | None = Field(
        None,
        description="where the data set is now (where the run found it)",
        json_schema_extra={"metavar": "SPEC"},
    )
    novelty: bool = Field(
        False,
        description="let clients ask which pictures are unlike those that taught; reads the data "
        "again",
    )
    report: bool = Field(
        True, description="measure on the test split and write the bundle's report"
    )
    thumbnails: bool = Field(
        True,
        description="the report shows the pictures of the worst mistakes and the least sure "
        "right answers",
    )
    track: bool = Field(
        False,
        description="add the bundle to the tracked run of the first RUN_DIR, see train --track",
    )
    name: str | None = Field(
        None, description="the model's name for clients (the directory's name)"
    )

    @field_validator("name")
    @classmethod
    def _clients_can_use_the_name(cls, name: str | None) -> str | None:
        if name is not None and not NAME.fullmatch(name):
            raise ValueError(
                "expected letters, digits, '.', '_', '-', 64 at most, a letter or digit first"
            )
        return name

    @model_validator(mode="after")
    def _auto_takes_all_kinds(self) -> "ExportConfig":
        if self.select == "auto" and self.weights is not None:
            raise Misfit(
                "{select} auto compares weights of every kind; leave {weights} out, or choose "
                "another rule, such as last"
            )
        return self

    @model_validator(mode="after")
    def _a_soup_is_one_network_made_of_snapshots(self) -> "ExportConfig":
        if self.select == "soup" and self.members not in (None, "auto", 1):
            raise Misfit("{select} soup makes one member of many snapshots; leave {members} out")
        if self.select == "soup" and self.weights == "soup":
            raise Misfit(
                "{select} soup averages snapshots, not soups; leave {weights} out, or choose from "
                "the run's own soups by another rule, such as best"
            )
        return self

    @model_validator(mode="after")
    def _the_metric_fits_the_prior(self) -> "ExportConfig":
        if self.class_prior == "uniform" and self.metric == "accuracy":
            raise Misfit(
                "{class_prior} uniform answers as if all classes were equally frequent, and "
                "{metric} accuracy would choose by how frequent they are in validation; use "
                "{metric} nll or macro"
            )
        return self

    @property
    def int8_limits(self) -> Int8Limits:
        """How much int8 may change."""
        return Int8Limits(
            max_accuracy_drop=self.max_int8_accuracy_drop,
            max_nll_rise=self.max_int8_nll_rise,
            min_agreement=self.min_int8_agreement,
            promise=self.int8_gate,
        )


DEFAULTS = ExportConfig()


class ExportPlaces(Options):
    """The arguments of `snapensemble.export` that are no settings."""

    runs: tuple[Path, ...] = Field(min_length=1)
    out: Path
    force: bool = False


class ExportOptions(TypedDict, total=False):
    """The fields of `ExportConfig` as keyword arguments, for type checkers."""

    members: int | Literal["auto"] | None
    select: Rule
    weights: Weights | None
    metric: Metric
    class_prior: ClassPrior
    quantize: Literal["none", "int8"]
    cascade: bool | None
    max_accuracy_drop: float
    max_nll_rise: float
    max_int8_accuracy_drop: float
    max_int8_nll_rise: float
    min_int8_agreement: float
    int8_gate: Promise
    sets: SetKind
    data: str | None
    novelty: bool
    report: bool
    thumbnails: bool
    track: bool
    name: str | None
