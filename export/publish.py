"""A directory that appears whole or not at all."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from contracts.bundle import BUNDLE_FILE
from contracts.errors import InvalidConfig, WriteFailed
from contracts.files import sync_directory


@contextlib.contextmanager
def publishing(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a hidden directory beside `target` to fill; on success it takes the name.

    After an error or an interrupt it is removed and `target` is as it was.

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
    try:
        hidden.chmod(0o755)
        yield hidden
        sync_directory(hidden)
        _refuse_taken(target, replace)  # another export may have finished meanwhile
        try:
            if target.exists():
                # A rename cannot replace a directory that holds files, so the old one steps aside.
                aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old-"))
                target.rename(aside / target.name)
                hidden.rename(target)
                shutil.rmtree(aside, ignore_errors=True)
            else:
                hidden.rename(target)
            sync_directory(target.parent)
        except OSError as error:
            raise WriteFailed(f"{target}: cannot publish: {error.strerror}") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _refuse_taken(target: Path, replace: bool) -> None:
    if not target.exists() and not target.is_symlink():
        return
    if not replace:
        raise InvalidConfig(f"{target} exists; choose another --out, or --force to replace it")
    if not (target / BUNDLE_FILE).is_file():
        raise InvalidConfig(f"{target} is not a bundle (no {BUNDLE_FILE}); it is not replaced")
