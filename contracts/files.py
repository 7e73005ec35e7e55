"""Whole files only: hashed, written atomically, and found inside their directory."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from snapensemble.contracts.errors import InvalidManifest, WriteFailed

TEMPORARY = ".tmp"
# The bound for a file whose manifest does not say its size: above the largest ONNX file (2 GiB) and
# the arrays of a long run.
MAX_FILE_BYTES = 4 * 2**30
MAX_PICTURE_BYTES = 2**30


def sha256_of(data: bytes) -> str:
    """The SHA-256 of `data` as 64 lowercase hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def write_atomically(path: Path, data: bytes) -> str:
    """Write `data` so that `path` holds either its old content or all of the new one.

    The bytes go to a temporary file beside `path`, reach the disk, and take the name last.

    Returns:
        The SHA-256 of `data`.

    Raises:
        WriteFailed: the disk is full, the directory is gone or not writable.
    """
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(TEMPORARY, f".{path.name}.", path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a bundle is read by another user in a container.
        temporary.chmod(0o644)
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise WriteFailed(f"{path}: {why_unwritten(error, len(data))}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return sha256_of(data)


@contextlib.contextmanager
def explaining_failures(path: str | Path) -> Iterator[None]:
    """Raise WriteFailed for an OSError of making, opening or writing what is there."""
    try:
        yield
    except OSError as error:
        raise WriteFailed(f"{path}: {why_unwritten(error)}") from error


def why_unwritten(error: OSError, size: int | None = None) -> str:
    """What was in the way of writing so many bytes, and what to do about a full disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        if size is None:
            return "the disk is full; free some space"
        wanted = f"{size:,} bytes" if size < 100_000 else f"{size / 1e6:,.1f} MB"
        return f"the disk is full, {wanted} were to be written; free some space"
    return f"cannot write: {error.strerror or error}"


def refuse_unwritable(directory: Path) -> None:
    """Make sure that a directory can be made and written to, and leave nothing there.

    A command that takes long asks this before it begins, not when it has something to write.

    Raises:
        WriteFailed: it cannot.
    """
    place = directory.absolute()
    while not os.path.lexists(place):
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise WriteFailed(
            f"{place}: {why_unwritten(error)}; choose another place for {directory}"
        ) from error


def remove_unfinished(directory: Path) -> None:
    """Remove what a killed `write_atomically` left behind; no process may be writing meanwhile."""
    for file in directory.rglob(f".*{TEMPORARY}"):
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def hidden_directory(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a directory in `parent` whose name begins so; it is removed at the end.

    So are others of that prefix whose process was killed: whoever fills one holds its lock.

    Raises:
        OSError: it cannot be made.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with locked(parent):  # or one is removed before it is locked
            for left in parent.glob(f"{glob.escape(prefix)}*"):
                with contextlib.suppress(OSError), locked(left, wait=False) as is_left:
                    if is_left:
                        shutil.rmtree(left, ignore_errors=True)
            directory = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            stack.enter_context(locked(directory))
        yield directory


@contextlib.contextmanager
def locked(directory: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a directory's lock, and say whether that is so: where there are no locks it is not."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # held by another, or a file system without locks, as some network ones are
        is_held = False
    else:
        is_held = True
    try:
        yield is_held
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def in_home(text: str) -> Path:
    """The place that a text names, where `~` and `~NAME` are homes.

    Unlike `Path.expanduser` it leaves `~NAME` as it is where nobody is called so.
    """
    return Path(os.path.expanduser(text))  # noqa: PTH111


def read_at_most(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file that a user names, of whatever kind: a pipe may give a picture, too.

    Raises:
        OSError: it cannot be read, or has more bytes, as a device without an end.
    """
    data = bytearray()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            data += chunk
            if len(data) > max_bytes:
                raise OSError(errno.EFBIG, f"has more than {max_bytes:,} bytes, the most allowed")
    return bytes(data)


def read_picture(path: Path) -> bytes:
    """The bytes of a picture that a user names; see `read_at_most`."""
    return read_at_most(path, MAX_PICTURE_BYTES)


def read_regular(path: Path, max_bytes: int) -> bytes:
    """The bytes of a regular file that is not too large; see `open_regular`."""
    with open_regular(path, max_bytes) as file:
        return file.read(os.fstat(file.fileno()).st_size)  # not what is appended meanwhile


@contextlib.contextmanager
def open_regular(path: Path, max_bytes: int) -> Iterator[BinaryIO]:
    """Open a regular file that is not too large.

    A directory from a stranger may hold a FIFO, which would wait for a writer, a device, or more
    bytes than fit the memory: none of them is opened or read.

    Raises:
        InvalidManifest: the file is of another kind, or larger; nothing was read.
        OSError: it is absent or cannot be read.
    """
    # Checked before opening, which starts some devices, and after, when it may be another file.
    _refuse_special(path, path.stat(), max_bytes)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        _refuse_special(path, os.fstat(descriptor), max_bytes)
        yield file


def read_verified(directory: Path, file: str, sha256: str, size: int | None = None) -> bytes:
    """The bytes of `directory/file`, which hash to `sha256`.

    Hash and content come from one read, so that nobody can swap the file in between.

    Args:
        directory: where the manifest is.
        file: the file's name inside it.
        sha256: the hash that the bytes must have.
        size: the number of bytes; manifests of earlier versions do not say it.

    Raises:
        InvalidManifest: the file is absent, outside `directory`, no regular file, too large, or
            has other bytes.
    """
    path = directory / file
    try:
        if not path.resolve().is_relative_to(directory.resolve()):
            raise InvalidManifest(f"{path} leads outside {directory}; refused")
        data = read_regular(path, MAX_FILE_BYTES if size is None else size)
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself
        raise InvalidManifest(
            f"{path}: {getattr(error, 'strerror', None) or error}; the manifest lists this file, "
            "so the directory is not whole"
        ) from error
    found = sha256_of(data)
    if found != sha256:
        raise InvalidManifest(
            f"{path}: sha256 is {found[:12]}…, the manifest says {sha256[:12]}…; "
            "the file was changed or damaged after it was written"
        )
    return data


def _refuse_special(path: Path, status: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise InvalidManifest(f"{path} is no regular file but {_kind(status.st_mode)}; refused")
    if status.st_size > max_bytes:
        raise InvalidManifest(
            f"{path} has {status.st_size:,} bytes, expected at most {max_bytes:,}; refused unread"
        )


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
