"""A bundle as one object that travels to each node once, and becomes a directory there.

What is packed was verified; what is unpacked is verified again, by the engine that loads it. The
directory is called by the hash of the manifest, and belongs to this user alone.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from snapensemble.contracts.bundle import BUNDLE_FILE, read_bundle
from snapensemble.contracts.errors import InvalidConfig, InvalidManifest
from snapensemble.contracts.files import (
    explaining_failures,
    read_regular,
    read_verified,
    sha256_of,
)
from snapensemble.contracts.manifest import MAX_MANIFEST_BYTES

Packed = Mapping[str, bytes]  # what a bundle's engine needs, by its name in the directory


def packed(bundle_dir: Path) -> tuple[str, Packed]:
    """The SHA-256 of a bundle's manifest, and the manifest with all that it lists.

    Raises:
        InvalidManifest: a file is absent, changed or not what the manifest says.
    """
    try:
        manifest = read_regular(bundle_dir / BUNDLE_FILE, MAX_MANIFEST_BYTES)
    except OSError:
        read_bundle(bundle_dir)  # says what is there instead
        raise
    sha256 = sha256_of(manifest)
    bundle = read_bundle(bundle_dir, sha256)
    parts = {
        part.file: read_verified(bundle_dir, part.file, part.sha256, part.size)
        for part in bundle.parts
    }
    return sha256, {**parts, BUNDLE_FILE: manifest}


def unpacked(sha256: str, fetch: Callable[[], Packed], root: Path | None = None) -> Path:
    """The directory of a bundle on this machine; fetched unless it is there whole.

    Processes of one machine wait for each other, so that one of them fetches.

    Args:
        sha256: of the manifest.
        fetch: gives the bundle.
        root: where the directories of bundles are; one of this user among temporary files, if not
            given.

    Raises:
        InvalidConfig: the place belongs to somebody else.
        WriteFailed: the disk is full.
    """
    root = root or Path(tempfile.gettempdir()) / f"snapensemble-bundles-{os.getuid()}"
    with explaining_failures(root):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_strange(root)
        directory = root / sha256
        with _locked(root / f"{sha256}.lock"):
            if not _is_whole(directory, sha256):
                shutil.rmtree(directory, ignore_errors=True)
                _write(fetch(), directory)
    return directory


def _is_whole(directory: Path, sha256: str) -> bool:
    try:
        return packed(directory)[0] == sha256
    except (InvalidManifest, OSError):
        return False


def _write(files: Packed, directory: Path) -> None:
    """Write a directory that takes its name when it is whole."""
    unfinished = Path(tempfile.mkdtemp(prefix=".", dir=directory.parent))
    try:
        for name, data in files.items():
            file = unfinished / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        unfinished.rename(directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _refuse_strange(root: Path) -> None:
    status = root.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise InvalidConfig(
            f"{root} is not a directory of this user that only this user may write to; remove it"
        )


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
