"""A directory that appears whole or not at all."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from snapensemble.contracts.bundle import BUNDLE_FILE
from snapensemble.contracts.errors import InvalidConfig, WriteFailed
from snapensemble.contracts.files import sync_directory


@contextlib.contextmanager
def publishing(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a hidden directory beside `target` to fill; on success it takes the name `target`.

    After an error or an interrupt the hidden directory is removed and `target` is as it was.

    Raises:
        InvalidConfig: `target` exists and `replace` is false, or it is no bundle.
        WriteFailed: the directory cannot be made or renamed.
    """
    _refuse_taken(target, replace)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.partial-"))
    except OSError as error:
        raise WriteFailed(f"{target}: cannot make a directory: {error.strerror}") from error
    bundle = hidden / "bundle"
    try:
        bundle.mkdir()
        yield bundle
        sync_directory(bundle)
        _refuse_taken(target, replace)  # another export may have finished meanwhile
        try:
            _swap(bundle, target, aside=hidden / "replaced")
            sync_directory(target.parent)
        except OSError as error:
            raise WriteFailed(f"{target}: cannot publish: {error.strerror}") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _swap(bundle: Path, target: Path, aside: Path) -> None:
    """Give `bundle` the name `target`; what was there steps aside, and back if that fails."""
    if not target.exists():
        bundle.rename(target)
        return
    # A rename cannot replace a directory that holds files.
    target.rename(aside)
    try:
        bundle.rename(target)
    except BaseException:
        aside.rename(target)
        raise


def _refuse_taken(target: Path, replace: bool) -> None:
    try:
        taken = target.exists() or target.is_symlink()
    except OSError as error:
        raise WriteFailed(f"{target}: {error.strerror}; choose another --out") from error
    if not taken:
        return
    if not replace:
        raise InvalidConfig(f"{target} exists; choose another --out, or --force to replace it")
    if not (target / BUNDLE_FILE).is_file():
        raise InvalidConfig(f"{target} is not a bundle (no {BUNDLE_FILE}); it is not replaced")
