"""What is to be served: a bundle, or a directory of models and their versions, as it is on disk.

One of three: `DIR/ensemble.json`, a bundle; `DIR/NAME/ensemble.json`, models with one version each;
`DIR/NAME/VERSION/ensemble.json`, models with several.
"""

import re
import stat
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from snapensemble.contracts.bundle import BUNDLE_FILE, manifest_sha256, read_bundle
from snapensemble.contracts.errors import InvalidConfig, InvalidManifest, SnapensembleError
from snapensemble.serving.errors import UnknownModel

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,127}")


class Planned(BaseModel):
    """A version of a model that is to be served, whose manifest has this SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    directory: Path
    sha256: str
    members: int


class Plan(BaseModel):
    """All that is to be served, and why the rest of what is there cannot be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[Planned, ...] = ()  # by name; of one name the newest version first
    problems: Mapping[str, str] = {}  # by the name of the model
    number: int = 0  # counted by who plans for several processes
    empty: tuple[Path, ...] = ()  # folders that are there and have no bundle

    def whole(self) -> "Plan":
        """The same, if all that is there can be served; raises InvalidManifest otherwise."""
        for why in self.problems.values():
            raise InvalidManifest(why)
        return self

    def models_of(self, name: str) -> tuple[Planned, ...]:
        """The versions of a model that are to be served.

        Raises:
            InvalidManifest: they cannot be served.
            UnknownModel: there is nothing of this name.
        """
        if why := self.problems.get(name):
            raise InvalidManifest(why)
        models = tuple(each for each in self.models if each.name == name)
        if not models:
            raise UnknownModel(f"found {name!r}, expected a folder of this name with a bundle")
        return models

    def beside(self, served: Collection[str]) -> "Plan":
        """The same where these models are served, some of which may have lost their bundle.

        Their folders are there, so they are not removed: another bundle may be on its way.
        """
        lost = {
            folder.name: f"{folder}: there is no bundle in it any more; put one there, or remove "
            "the folder if the model is to be served no longer"
            for folder in self.empty
            if folder.name in served
        }
        return self.model_copy(update={"problems": {**self.problems, **lost}})

    def without(self, names: Collection[str]) -> "Plan":
        """The same without the models of these names."""
        return Plan(
            models=tuple(each for each in self.models if each.name not in names),
            problems={name: why for name, why in self.problems.items() if name not in names},
        )


def plan(
    root: Path,
    *,
    versions: int = 1,
    name: str | None = None,
    expected_sha256: Callable[[Path], str | None] = lambda _: None,
) -> Plan:
    """Look what is to be served.

    Args:
        root: a bundle, or a directory of models.
        versions: how many of the newest versions of each model.
        name: of the model, in place of the bundle's own; for a bundle only.
        expected_sha256: gives the hash that the manifest in a directory must have, if only one is
            right; raises what is wrong with it.

    Raises:
        InvalidManifest: nothing to serve is there, or one bundle that cannot be served. Of that it
            is not known which model it was to be.
        InvalidConfig: a name is given for several models.
    """
    if _has_bundle(root):
        return _planned([Found(name, None, root)], {}, expected_sha256).whole()
    found: list[Found] = []
    problems: dict[str, str] = {}
    empty: list[Path] = []
    for folder in sorted(_folders(root)):
        try:
            inside = _found(folder, versions)
            found += inside
            empty += [] if inside else [folder]
        except InvalidManifest as error:
            if _NAME.fullmatch(folder.name):  # others are no model's, such as `lost+found`
                problems[folder.name] = str(error)
    if not (found or problems):
        raise InvalidManifest(
            f"{root}: there is no bundle in it; expected {BUNDLE_FILE}, or NAME/{BUNDLE_FILE} or "
            f"NAME/VERSION/{BUNDLE_FILE} for each model"
        )
    if name is not None:
        raise InvalidConfig(
            f"--name {name}: {root} is a directory of models, which are called like its folders; "
            "leave --name out, or serve one of them"
        )
    planned = _planned(found, problems, expected_sha256)
    return planned.model_copy(update={"empty": tuple(empty)})


class Found(NamedTuple):
    """A bundle that is there, with the names that its folders give it, if they do."""

    name: str | None
    version: str | None
    directory: Path


def order(version: str) -> tuple[tuple[int, int, str], ...]:
    """The key by which versions are sorted: numbers in them count as numbers, so 10 is after 9."""
    parts = re.split(r"(\d+)", version)
    return tuple((1, int(p), "") if p.isdecimal() else (0, 0, p) for p in parts if p)


def _found(folder: Path, versions: int) -> list[Found]:
    """The bundles of a model's folder; raises InvalidManifest if it cannot be read."""
    inside = [each for each in _folders(folder) if _has_bundle(each)]
    newest_first = sorted(inside, key=lambda each: order(each.name), reverse=True)
    itself = [Found(folder.name, None, folder)] if _has_bundle(folder) else []
    return itself + [Found(folder.name, each.name, each) for each in newest_first[:versions]]


def _folders(directory: Path) -> list[Path]:
    try:
        return [e for e in directory.iterdir() if not e.name.startswith(".") and _may_be_folder(e)]
    except OSError as error:
        raise _unreadable(directory, error) from error


def _may_be_folder(entry: Path) -> bool:
    """Whether this is a folder, or nobody may know: whoever looks into it learns why not."""
    try:
        return stat.S_ISDIR(entry.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def _has_bundle(directory: Path) -> bool:
    try:
        return stat.S_ISREG((directory / BUNDLE_FILE).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreadable(directory, error) from error


def _unreadable(directory: Path, error: OSError) -> InvalidManifest:
    return InvalidManifest(
        f"{directory}: cannot be read ({error.strerror or error}); expected a bundle, made by "
        "`snapensemble export`, or a directory of bundles"
    )


def _planned(
    found: list[Found], problems: dict[str, str], expected_sha256: Callable[[Path], str | None]
) -> Plan:
    models: list[Planned] = []
    for name, version, directory in found:
        try:
            _check_names(directory, name, version)
            expected = expected_sha256(directory)
            sha256 = expected or manifest_sha256(directory)
            bundle = read_bundle(directory, sha256)
        except (SnapensembleError, OSError) as error:
            problems[name or directory.name] = str(error)
        else:
            models.append(
                Planned(
                    name=name or bundle.name,
                    version=version or bundle.version,
                    directory=directory,
                    sha256=sha256,
                    members=len(bundle.members),
                )
            )
    return Plan(models=tuple(models), problems=problems)


def _check_names(directory: Path, name: str | None, version: str | None) -> None:
    """Refuse names that could not be part of a path, or that say nothing of their order."""
    for part in (name, version):
        if part is not None and not _NAME.fullmatch(part):
            raise InvalidManifest(
                f"{directory}: {part!r} cannot be part of a path; expected letters, digits, spaces "
                "or any of . _ -, and a letter or a digit first"
            )
    if version is not None and (directory.parent / BUNDLE_FILE).is_file():
        raise InvalidManifest(
            f"{directory.parent}: there is a bundle in it, and in folders below it; expected "
            "either one version, or a folder for each"
        )
