"""ManyOptions: where the answers for many pictures go, and what rows depend on."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from snapensemble.contracts.bundle import BUNDLE_FILE
from snapensemble.contracts.cluster.options import RayOptions
from snapensemble.contracts.errors import Misfit
from snapensemble.contracts.files import read_regular, sha256_of
from snapensemble.contracts.manifest import MAX_MANIFEST_BYTES
from snapensemble.many.places import Places
from snapensemble.serving.http.schemas import PredictOptions

SUFFIXES = (".csv", ".jsonl", ".parquet")
# What a request may ask, and what changes no row or has an option of its own here.
_NOT_OF_ROWS = {"members", "probabilities", "explain", "deadline_ms"}


class ManyOptions(RayOptions):
    """The options of `snapensemble predict` for many pictures."""

    out: Path | None = Field(
        None,
        description="write a row per picture into FILE.csv, .jsonl or .parquet, with --ray into "
        "Parquet files of the folder FILE; the same command goes on where it was stopped",
        json_schema_extra={"metavar": "FILE"},
    )
    probabilities: bool = Field(
        False, description="with --out: add a column with the probabilities of all classes"
    )
    move_to: Path | None = Field(
        None,
        description="with --out: move each picture into DIR/CLASS/, and write over nothing",
        json_schema_extra={"metavar": "DIR"},
    )
    link_to: Path | None = Field(
        None,
        description="with --out: make a symbolic link to each picture in DIR/CLASS/",
        json_schema_extra={"metavar": "DIR"},
    )

    part_rows: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        description="with --ray: rows of a Parquet file, and pictures that are asked again where "
        "a worker is lost",
        json_schema_extra={"metavar": "N"},
    )

    @field_validator("out")
    @classmethod
    def _out_has_a_known_format(cls, out: Path | None, info: ValidationInfo) -> Path | None:
        on_cluster = info.data.get("ray") is not None
        if out is not None and not on_cluster and out.suffix.lower() not in SUFFIXES:
            raise ValueError(f"expected a file that ends with one of {', '.join(SUFFIXES)}")
        return out

    @model_validator(mode="after")
    def _rows_come_first(self) -> "ManyOptions":
        if self.move_to is not None and self.link_to is not None:
            raise Misfit("give either {move_to} or {link_to}, not both")
        if self.ray is not None:
            if self.out is None:
                raise Misfit("{ray} needs {out}, the folder of the files with rows")
            if self.places is not None:
                raise Misfit("{move_to} and {link_to} are done without {ray} only")
        elif "part_rows" in self.model_fields_set:
            raise Misfit("{part_rows} needs {ray}, the address of a cluster")
        if self.out is None:
            for name in ("probabilities", "move_to", "link_to"):
                if getattr(self, name):
                    raise Misfit(f"{{{name}}} needs {{out}}, the file of rows")
        return self

    @property
    def places(self) -> Places | None:
        """Where pictures are put, if anywhere."""
        ways: list[tuple[Literal["move", "link"], Path | None]] = [
            ("move", self.move_to),
            ("link", self.link_to),
        ]
        found = [Places(way, directory) for way, directory in ways if directory is not None]
        return found[0] if found else None


def depends_on(
    bundle_dir: Path, many: ManyOptions, options: PredictOptions, max_image_cost: float
) -> dict[str, str]:
    """What rows depend on, by the names that a person knows: all that may be asked for."""
    asked = options.model_dump(exclude=_NOT_OF_ROWS) | {"mode": options.mode or "full"}
    return {
        "the bundle": sha256_of(read_regular(bundle_dir / BUNDLE_FILE, MAX_MANIFEST_BYTES))[:12],
        **{f"--{name}": str(value) for name, value in asked.items()},
        "--probabilities": str(many.probabilities).lower(),
        "--max-image-cost": f"{max_image_cost:g}",
        "--move-to": str(many.move_to and many.move_to.absolute()),
        "--link-to": str(many.link_to and many.link_to.absolute()),
    }
