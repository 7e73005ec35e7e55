"""The pickles of CIFAR's authors, read as data: nothing that a pickle asks for is ever called.

A pickle is a program. Here its calls are noted instead of made, and only the four names that an
official file needs can be noted at all.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.errors import InvalidData

_RECONSTRUCT, _ARRAY, _DTYPE, _ENCODE = "_reconstruct", "ndarray", "dtype", "encode"
_ALLOWED = {
    ("numpy.core.multiarray", _RECONSTRUCT),
    ("numpy._core.multiarray", _RECONSTRUCT),  # its name since NumPy 2
    ("numpy", _ARRAY),
    ("numpy", _DTYPE),
    ("_codecs", _ENCODE),  # how Python 3 writes bytes for Python 2
}
# The largest official file takes about 200,000 instructions and five tuples. A few bytes of a
# hostile one could reserve 64 GB (a memo index) or overflow the stack (the hash of nested tuples).
_MOST_INSTRUCTIONS = 2_000_000
_MOST_TUPLES = 1000
_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"}
_MEMO = {"PUT", "BINPUT", "LONG_BINPUT"}


class _Noted:
    """A name in the pickle, the arguments of its call, and the state the result was to take."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        self.name, self.arguments = name, arguments
        self.state: Any = None

    def __call__(self, *arguments: Any) -> "_Noted":
        return _Noted(self.name, arguments)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    def __init__(self, data: bytes, file: Path) -> None:
        # Python 2 wrote the pixels as text; as bytes they come through unchanged.
        super().__init__(io.BytesIO(data), encoding="bytes")
        self._file = file

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise InvalidData(
                f"{self._file}: found {ascii(f'{module}.{name}')[:100]} in the pickle, which no "
                "official file holds; refused, and nothing in the file was run"
            )
        return _Noted(name)


def read_pickle(data: bytes, file: Path) -> dict[str, Any]:
    """The dictionary in an official pickle; `uint8_array` makes arrays of its values.

    Args:
        data: the pickle.
        file: where it came from, for the messages.

    Raises:
        InvalidData: the pickle is damaged, no dictionary, or names what no official file does.
    """
    try:
        _refuse_costly(data, file)
        content = _Reader(data, file).load()
    except InvalidData:
        raise
    except Exception as error:  # a damaged pickle raises whatever its instructions run into
        reason = str(error)[:200] or type(error).__name__
        raise InvalidData(f"{file}: cannot read as a pickle: {reason}") from error
    if type(content) is not dict:
        raise InvalidData(f"{file}: found no dictionary in the pickle, expected one")
    return {
        key if isinstance(key, str) else key.decode("latin1"): value
        for key, value in content.items()
        if isinstance(key, str | bytes)
    }


def uint8_array(noted: Any) -> NDArray[np.uint8] | None:
    """The array of uint8 that a value stands for; None if it is anything else."""
    if not isinstance(noted, _Noted) or noted.name != _RECONSTRUCT:
        return None
    try:
        _, shape, dtype, columns_first, raw = noted.state
        if dtype.name != _DTYPE or dtype.arguments[0] not in ("u1", b"u1"):
            return None
        if isinstance(raw, _Noted):
            text, codec = raw.arguments
            raw = text.encode("latin1") if (raw.name, codec) == (_ENCODE, "latin1") else None
        pixels = np.frombuffer(raw, dtype=np.uint8)
        return pixels.reshape(shape, order="F" if columns_first is True else "C")
    except (TypeError, ValueError, AttributeError, IndexError):
        return None


def _refuse_costly(data: bytes, file: Path) -> None:
    """Refuse what would cost far more than its size tells; reads the instructions, runs none."""
    tuples = 0
    for count, (code, argument, _) in enumerate(pickletools.genops(data)):
        tuples += code.name in _TUPLES
        memo = argument if code.name in _MEMO and isinstance(argument, int) else 0
        if max(count, memo) > _MOST_INSTRUCTIONS or tuples > _MOST_TUPLES:
            raise InvalidData(f"{file}: the pickle is far more complicated than an official file")
