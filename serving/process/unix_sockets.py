"""A socket in the file system, for who stands in front on the same machine."""

import contextlib
import errno
import socket
import stat
import sys
from pathlib import Path

from snapensemble.contracts.errors import InvalidConfig

LONGEST = 107 if sys.platform == "linux" else 103  # bytes of a path (unix(7)), without its end
PATIENCE_S = 1.0  # for a server that listens, and is busy


def bind_path(path: Path, mode: int) -> socket.socket:
    """Bind a socket to a path; it refuses connections until it listens.

    A socket that a dead server has left there is replaced, a file of another kind never.

    Args:
        path: where the socket appears.
        mode: permissions of the file; to connect takes the permission to write.

    Raises:
        InvalidConfig: the path cannot be used, or somebody has it.
    """
    if len(bytes(path)) > LONGEST:
        raise _cannot(
            path, f"the path has {len(bytes(path))} bytes, at most {LONGEST} are possible"
        )
    if not path.parent.is_dir():
        raise _cannot(path, f"there is no directory {path.parent}; make it first")
    _remove_what_is_left(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        path.chmod(mode)  # nobody can connect before it listens
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise _taken(path) from error
        raise _cannot(path, str(error.strerror or error)) from error
    return listener


def _remove_what_is_left(path: Path) -> None:
    """Remove the socket of a server that has not ended in order."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _cannot(path, str(error.strerror or error)) from error
    if not stat.S_ISSOCK(kind):
        raise _cannot(path, "there is a file that is no socket; remove it, or choose another path")
    if _is_bound(path):
        raise _taken(path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot(path, f"the one that was left: {error.strerror or error}") from error


def _is_bound(path: Path) -> bool:
    """Whether a process has this socket, even if it does not listen yet."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            pass  # nobody listens
        except FileNotFoundError:
            return False
        except OSError:
            return True  # its queue is full, or it may not be asked: somebody may have it
        else:
            return True
    # A server of several processes listens when the first of them is warm.
    with contextlib.suppress(OSError):
        table = Path("/proc/net/unix").read_text(encoding="utf-8", errors="surrogateescape")
        return any(line.endswith(f" {path}") for line in table.splitlines())
    return False


def remove(listener: socket.socket) -> None:
    """Remove the file of a bound socket, so that no client finds it."""
    with contextlib.suppress(OSError):
        Path(listener.getsockname()).unlink(missing_ok=True)


def _taken(path: Path) -> InvalidConfig:
    return _cannot(path, "another server has this socket; stop it, or choose another path")


def _cannot(path: Path, reason: str) -> InvalidConfig:
    return InvalidConfig(f"cannot listen on --uds {path}: {reason}")
