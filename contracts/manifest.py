"""The strict base of all manifest parts, and how a manifest is read and written."""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from snapensemble.contracts.errors import InvalidManifest
from snapensemble.contracts.files import MAX_FILE_BYTES, read_regular, sha256_of, write_atomically

# The classes of the largest public data set take 1 MB. Brackets are counted before parsing, which
# makes hundreds of bytes of a bracket that opens a list.
MAX_MANIFEST_BYTES = 8 * 2**20
MAX_MANIFEST_BRACKETS = 100_000
MAX_CLASSES = 100_000
MAX_CLASS_NAME = 1_000  # characters

MOST_NAMED = 5  # classes in a message

_NAMES = ("extra_forbidden", "literal_error")  # errors about a name that this version has not


def _inside(file: str) -> str:
    """Refuse a name that could lead out of the manifest's directory."""
    parts = PurePosixPath(file).parts
    if not file or "\\" in file or ":" in file or not file.isprintable():
        raise ValueError(f"{file!r} is not a plain relative path")
    if file.startswith("/") or ".." in parts or str(PurePosixPath(file)) != file or file == ".":
        raise ValueError(f"{file!r} is not a plain path inside the directory")
    return file


def _distinct(classes: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(classes)) != len(classes):
        raise ValueError("class names must differ from each other")
    return classes


RelativeFile = Annotated[str, AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# None: not said, as in manifests of earlier versions.
FileSize = Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)] | None
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# Outside this range an average becomes a tie or a certainty, and further out not a number.
Temperature = Annotated[float, Field(ge=0.01, le=100)]
ClassNames = Annotated[
    tuple[Annotated[str, Field(max_length=MAX_CLASS_NAME)], ...],
    Field(min_length=2, max_length=MAX_CLASSES),
    AfterValidator(_distinct),
]


def how_classes_differ(found: Sequence[str], expected: Sequence[str]) -> str:
    """What is different in a list of class names, in words; it names a few where many are."""
    lacking, besides = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if not lacking and not besides:
        pairs = zip(found, expected, strict=True)
        ours, theirs = next(pair for pair in pairs if len(set(pair)) > 1)
        return f"has the same classes in another order: {ours!r} where {theirs!r} is expected"
    parts = [("lacks", lacking), ("has besides", besides)]
    return ", and ".join(
        f"{verb} {some_of(list(map(repr, names)))}" for verb, names in parts if names
    )


def some_of(texts: Sequence[str]) -> str:
    """The first of many texts about classes, and how many more there are."""
    more = len(texts) - MOST_NAMED
    return ", ".join(texts[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


class Record(BaseModel):
    """A part of a manifest: immutable, and unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FileRef(Record):
    """A file inside the manifest's directory, and the hash that its bytes must have."""

    file: RelativeFile
    sha256: Sha256
    size: FileSize = None  # bytes


class ValFigures(Record):
    """How good a snapshot or an ensemble was on the validation split."""

    nll: NonNegative  # mean negative log-likelihood, nats
    accuracy: Fraction
    macro_accuracy: Fraction | None = None  # None: not said, as in manifests of earlier versions

    @property
    def said(self) -> dict[str, float]:
        """The figures by name, without what is not said."""
        return self.model_dump(exclude_none=True)

    @property
    def in_words(self) -> str:
        """NLL, accuracy and macro accuracy, for a line of figures."""
        macro = "" if self.macro_accuracy is None else f"  macro accuracy {self.macro_accuracy:.2%}"
        return f"nll {self.nll:.4f}  accuracy {self.accuracy:.2%}{macro}"


class Figures(ValFigures):
    """All figures of a set of answers; `contracts.metrics` says how each is computed."""

    ece: Fraction  # 15 bins of equal width
    adaptive_ece: Fraction  # 15 bins of equally many images
    brier: NonNegative


Manifest = TypeVar("Manifest", bound=Record)


def read_manifest(
    path: Path, kind: type[Manifest], *, made_by: str, expected_sha256: str | None = None
) -> Manifest:
    """Read and check a manifest.

    Args:
        path: the JSON file.
        kind: the record it must match; `format` and `format_version` are among its fields.
        made_by: the command that writes such a manifest, for the error messages.
        expected_sha256: the only hash that the file may have, if it is known.

    Raises:
        InvalidManifest: the file is absent, no regular file, too large, not the one expected, not
            JSON, of a later version, or not as `kind` says.
    """
    try:
        data = read_regular(path, MAX_MANIFEST_BYTES)  # what is hashed is what is parsed
        text = data.decode()
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidManifest(
            f"{path} does not exist; expected a directory made by `{made_by}`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", error)
        raise InvalidManifest(f"{path}: cannot read: {why}") from error
    if expected_sha256 not in (None, found := sha256_of(data)):
        raise InvalidManifest(
            f"{path}: sha256 is {found}, expected {expected_sha256}; this is another bundle, or a "
            "changed one: put the expected one here or, if this one is meant, expect its sha256"
        )
    if (brackets := text.count("[") + text.count("{")) > MAX_MANIFEST_BRACKETS:
        raise InvalidManifest(
            f"{path}: {brackets:,} opening brackets, expected at most {MAX_MANIFEST_BRACKETS:,}"
        )
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidManifest(f"{path}: not JSON: {error}") from error
    _refuse_other_versions(path, content, kind)
    try:
        # As JSON, so that tuples may come as arrays and nothing else is converted.
        return kind.model_validate_json(text, strict=True)
    except ValidationError as error:
        errors = error.errors()
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'manifest'}: {e['msg']}" for e in errors[:5]
        )
        if any(e["type"] in _NAMES for e in errors):
            problems += "; if a later snapensemble has written it, install a newer one"
        raise InvalidManifest(f"{path}: {problems}") from error


def write_manifest(path: Path, manifest: Record) -> None:
    """Write a manifest atomically. The files it lists must be complete already."""
    write_atomically(path, (manifest.model_dump_json(indent=2) + "\n").encode())


def _refuse_other_versions(path: Path, content: Any, kind: type[Record]) -> None:
    if not isinstance(content, dict):
        raise InvalidManifest(f"{path}: expected a JSON object, found {type(content).__name__}")
    expected_format = kind.model_fields["format"].default
    expected_version = kind.model_fields["format_version"].default
    if content.get("format") != expected_format:
        raise InvalidManifest(
            f"{path}: format is {content.get('format')!r}, expected {expected_format!r}"
        )
    version = content.get("format_version")
    if isinstance(version, int) and version > expected_version:
        raise InvalidManifest(
            f"{path}: format version {version} was written by a later snapensemble, "
            f"this one reads version {expected_version}; install a newer snapensemble"
        )
