"""Pickles as Python 2 wrote them: text as bytes, protocol 2, NumPy's old module names."""

import struct
from typing import Any

import numpy as np


def python2_pickle(value: Any) -> bytes:
    return b"\x80\x02" + _instructions(value) + b"."


def _instructions(value: Any) -> bytes:
    if isinstance(value, dict):
        items = b"".join(_instructions(k) + _instructions(v) for k, v in value.items())
        return b"}q\x01(" + items + b"u"
    if isinstance(value, list):
        return b"]q\x05(" + b"".join(map(_instructions, value)) + b"e"
    if isinstance(value, int):
        if 0 <= value < 256:
            return b"K" + bytes([value])
        size = value.bit_length() // 8 + 1
        return b"\x8b" + struct.pack("<i", size) + value.to_bytes(size, "little", signed=True)
    if isinstance(value, np.ndarray):
        return _array(value)
    text = value if isinstance(value, bytes) else value.encode()
    if len(text) < 256:
        return b"U" + bytes([len(text)]) + text
    return b"T" + struct.pack("<i", len(text)) + text


def _array(value: np.ndarray[Any, Any]) -> bytes:
    shape = b"".join(b"J" + struct.pack("<i", side) for side in value.shape)
    return b"".join(
        [
            b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85q\tU\x01b\x87R",
            b"(K\x01(" + shape + b"tcnumpy\ndtype\nq\x0cU\x02" + value.dtype.str[1:].encode(),
            b"K\x00K\x01\x87Rq\r(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b"\x89" + _instructions(value.tobytes()) + b"tb",
        ]
    )
