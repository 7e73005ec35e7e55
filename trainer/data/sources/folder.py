"""Image folders as people have them: which directories are parts, which are classes.

What could be meant in two ways is refused, with what to do. The rules, in their order:

- A directory that holds nothing but one directory, which has directories, is looked into.
- Directories that have the names of parts, and hold directories, are parts. Beside them nothing
  else may hold pictures.
- Runs and bundles of ours that were put beside classes are none.
- Without parts every directory is a class, unless names or a second level of equal names tell
  that they are something else.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from snapensemble.contracts.bundle import BUNDLE_FILE
from snapensemble.contracts.errors import InvalidData
from snapensemble.contracts.pictures.walk import Walk, is_directory, listed
from snapensemble.contracts.pixels import SUFFIXES
from snapensemble.contracts.process import say
from snapensemble.contracts.run import RUN_FILE
from snapensemble.trainer.data.sources.source import Files, Found, Labelled, PartOrAll
from snapensemble.trainer.data.sources.splits import EXPECTED, WORDS, composed, part_called, part_in

_OUTSIDE = "pictures outside of the class folders"
_RESULTS, _RESULTS_DEPTH = "folders with runs or bundles only", 2


def find_folder(directory: Path) -> Found:
    """Find the pictures of train/CLASS/* with optional val/ and test/, or of CLASS/* alone.

    Says in a line each if a folder in the folder is read, which other names the parts have, and
    what is passed over.

    Raises:
        InvalidData: the folder has fewer than two classes, or it is not clear which they are.
    """
    top = _inside(directory)
    if top != directory:
        say(f"{directory} holds one folder only; {top} is read")
    roots = _parts(top) or {"everything": top}
    train = roots.get("train", top)
    classes = _class_folders(train)
    _refuse_few(train, list(classes))
    if train == top:
        _refuse_unclear(top, list(classes.values()))
    walk = Walk()
    parts = {part: _labelled(root, train, sorted(classes), walk) for part, root in roots.items()}
    for first, second in walk.shared:
        raise InvalidData(
            f"{first} and {second} are one folder, by a link; its pictures cannot be of two "
            "classes or parts: remove one of them"
        )
    if train != top:
        _refuse_siblings(top, roots.values(), walk)
    if line := walk.summary():
        say(line)
    for part, labelled in parts.items():
        if not labelled.labels:
            raise InvalidData(
                f"{roots[part]} holds no images in its class folders; put some there, or remove it"
            )
    return Found(str(top), tuple(sorted(classes)), parts)


def _inside(directory: Path) -> Path:
    """The directory with the data, where archives put one or more directories around it."""
    around: set[Path] = set()
    while directory.resolve() not in around:
        around.add(directory.resolve())
        folders = _folders(directory)
        is_around = len(folders) == 1 and not part_called(folders[0].name)
        if not is_around or not _folders(folders[0]) or Walk().pictures(directory, deep=False):
            break
        directory = folders[0]
    return directory


def _parts(top: Path) -> dict[PartOrAll, Path]:
    """The directories of the parts, if there are any.

    Raises:
        InvalidData: two directories are the same part, none is train/, or one has no classes.
    """
    found: dict[PartOrAll, list[Path]] = {part: [] for part in WORDS}
    for folder in _folders(top):
        if called := part_called(folder.name):
            found[called].append(folder)
    named = {part: folders for part, folders in found.items() if folders}
    if not any(_folders(folder) for folders in named.values() for folder in folders):
        return {}  # classes may have such names: a train and a bus
    for part, folders in named.items():
        if len(folders) > 1:
            raise InvalidData(
                f"{top}: {' and '.join(f'{each.name}/' for each in folders)} both mean the "
                f"{part} part; move them into one, or one of them elsewhere"
            )
    roots = {part: folders[0] for part, folders in named.items()}
    for root in roots.values():
        if not _folders(root):
            raise InvalidData(
                f"{root} has no class folders, as there are beside it; put its pictures into "
                "folders by class, or move it elsewhere"
            )
    if "train" not in roots:
        raise InvalidData(
            f"{top} has {' and '.join(f'{root.name}/' for root in roots.values())}, but nothing "
            f"to train on; expected folders of these names: {EXPECTED}"
        )
    if renamed := [f"{root.name}/ as {part}" for part, root in roots.items() if root.name != part]:
        say(f"taken: {', '.join(renamed)}")
    return roots


def _class_folders(root: Path) -> dict[str, Path]:
    """The directories of the classes, by the names of these."""
    classes: dict[str, Path] = {}
    for folder in _folders(root):
        name = composed(folder.name)
        if name in classes:
            raise InvalidData(
                f"{root}: {classes[name].name!a} and {folder.name!a} look the same, {name!r}: "
                "their accents are coded in two ways; move the pictures into one of them"
            )
        classes[name] = folder
    return classes


def _labelled(root: Path, train: Path, classes: list[str], walk: Walk) -> Labelled:
    """The pictures of a part, class by class."""
    folders = _class_folders(root)
    if unknown := sorted(folders.keys() - set(classes)):
        raise InvalidData(
            f"{root} has classes that {train.name}/ has not: {', '.join(unknown[:5])}; expected "
            f"some of {', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}"
        )
    _pass_over_outside(root, walk)
    found = [
        (path, label)
        for label, name in enumerate(classes)
        if name in folders
        for path in walk.pictures(folders[name])
    ]
    return Labelled(Files([path for path, _ in found]), [label for _, label in found])


def _refuse_few(root: Path, classes: list[str]) -> None:
    if len(classes) < 2:
        pictures = len(Walk().pictures(root, deep=False))
        raise InvalidData(
            f"{root} has {len(classes)} class folder{'' if len(classes) == 1 else 's'}"
            f"{f' and {pictures:,} pictures' if pictures else ''}; "
            "expected at least two, one per class, with the images inside; if a table has the "
            "labels, give csv:FILE"
        )


def _refuse_unclear(top: Path, folders: list[Path]) -> None:
    """Refuse what looks like parts, though it is not called so, and two levels of classes."""
    alike = {folder: part for folder in folders if (part := part_in(folder.name))}
    names = ", ".join(f"{folder.name}/" for folder in alike)
    inner = {folder: {composed(each.name) for each in _folders(folder)} for folder in folders}
    if any(inner[folder] for folder in alike):
        raise InvalidData(
            f"{top}: {names} look like parts of a data set by their names, and hold folders; "
            f"give them the names of parts ({EXPECTED}), or put all folders into train/ if they "
            "are classes"
        )
    if len(set(alike.values())) > 1:
        raise InvalidData(
            f"{top}: {names} look like parts of a data set by their names, but hold no class "
            "folders; put the pictures into folders by class, or give csv:FILE if a table has the "
            "labels; put all folders into train/ if they are classes"
        )
    common = set.intersection(*inner.values())
    if len(common) > 1 and not any(Walk().pictures(folder, deep=False) for folder in folders):
        outer = ", ".join(f"{folder.name}/" for folder in folders[:3])
        raise InvalidData(
            f"{top}: each of {outer}{', ...' if len(folders) > 3 else ''} holds the folders "
            f"{', '.join(sorted(common)[:3])}, so the classes may be the outer folders or the "
            "inner ones; put the outer ones into train/ if they are the classes, else merge them "
            f"or give them the names of parts ({EXPECTED})"
        )


def _refuse_siblings(top: Path, roots: Iterable[Path], walk: Walk) -> None:
    """Refuse pictures beside the parts that would be neither used nor missed."""
    _pass_over_outside(top, walk)
    used = set(roots)
    for folder in _folders(top):
        if folder not in used and (pictures := walk.pictures(folder)):
            raise InvalidData(
                f"{folder} holds {len(pictures):,} pictures, but is no part of the data as "
                f"{' and '.join(sorted(f'{each.name}/' for each in used))} beside it; give it the "
                f"name of one ({EXPECTED}), or move it elsewhere"
            )


def _pass_over_outside(directory: Path, walk: Walk) -> None:
    if outside := walk.pictures(directory, deep=False):
        walk.passed_over[_OUTSIDE] += len(outside)
    if results := [each for each in _directories(directory) if _holds_results(each)]:
        walk.passed_over[_RESULTS] += len(results)


def _folders(directory: Path) -> list[Path]:
    return [each for each in _directories(directory) if not _holds_results(each)]


def _directories(directory: Path) -> list[Path]:
    return [directory / each.name for each in listed(directory) if is_directory(each)]


def _holds_results(directory: Path) -> bool:
    """Whether there are runs or bundles, and no pictures.

    `train --data . --out runs/first` puts them there, and the run could not go on if they were a
    class without pictures.
    """
    return _has_manifest(directory, _RESULTS_DEPTH) and not Walk().pictures(directory)


def _has_manifest(directory: Path, depth: int) -> bool:
    """Whether a run or a bundle lies so deep at most; the first picture seen says no."""
    inner = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name in (RUN_FILE, BUNDLE_FILE):
                    return True
                if is_directory(entry):
                    inner.append(Path(entry.path))
                elif Path(entry.name).suffix.lower() in SUFFIXES:
                    return False
    except OSError:  # who reads the class says it
        return False
    return depth > 0 and any(_has_manifest(each, depth - 1) for each in inner)
