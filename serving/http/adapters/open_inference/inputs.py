"""Named tensors -> pictures, whatever carried them. Pure.

Every size that a request states is compared with what is there before anything is made of it.

Shapes: N images, C channels, H height, W width.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snapensemble.serving.errors import InvalidTensor, TooManyImages
from snapensemble.serving.http.media.json_images import too_many
from snapensemble.serving.http.media.texts import picture_of

PICTURES, IMAGES = "pictures", "images"  # encoded, and as the members take them
MAX_SHOWN = 8  # dimensions of a wrong shape that a message repeats
LENGTH = struct.Struct("<I")  # stands before each element of BYTES
STEP = 2**16  # values that are looked at together, while no other thread runs


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input as it came. It has either bytes or values.

    Args:
        name: of the input.
        datatype: as the protocol writes it.
        shape: of any integers.
        raw: the elements, row by row, little-endian; those of BYTES have their lengths before them.
        values: the elements, flat or in lists of lists; those of BYTES are bytes or texts.
    """

    name: str
    datatype: str
    shape: Sequence[int]
    raw: memoryview | None = None
    values: Sequence[Any] | None = None


def expected_inputs(shape: tuple[int, int, int]) -> str:
    """The inputs of a model of this image shape, for messages."""
    return f"expected {PICTURES} BYTES [N] or {IMAGES} UINT8 [N,{','.join(map(str, shape))}]"


def images_of(
    inputs: Sequence[Tensor], shape: tuple[int, int, int], *, limit: int
) -> list[bytes] | NDArray[np.uint8]:
    """Encoded pictures, or images_NCHW, which share the memory of the bytes that came.

    Args:
        inputs: all that the request has.
        shape: (C, H, W) of the model.
        limit: how many images there may be.

    Raises:
        InvalidTensor: there is another number of inputs, or one is not what its name says.
        MalformedBody: a text is not base64.
        TooManyImages: there are more than `limit`.
    """
    expected = expected_inputs(shape)
    if len(inputs) != 1:
        names = ", ".join(repr(each.name) for each in inputs[:3]) or "none"
        raise InvalidTensor(f"inputs: found {len(inputs)} ({names}), {expected}")
    (tensor,) = inputs
    kinds = {PICTURES: "BYTES", IMAGES: "UINT8"}
    if kinds.get(tensor.name) != tensor.datatype:
        raise InvalidTensor(f"inputs: found {tensor.name!r} {tensor.datatype!r}, {expected}")
    count = _count_of(tensor, shape, limit)
    return _pictures(tensor, count) if tensor.name == PICTURES else _pixels(tensor, count, shape)


def _count_of(tensor: Tensor, shape: tuple[int, int, int], limit: int) -> int:
    """The number of images, of a shape that is right."""
    found = tuple(tensor.shape[: MAX_SHOWN + 1])
    if tensor.name == IMAGES:
        is_right = len(found) == 4 and found[1:] == shape
    else:  # a second dimension of 1 is what clients of batching servers send
        is_right = len(found) == 1 or (len(found) == 2 and found[1] == 1)
    if not is_right or found[0] < 1:
        shown = ",".join([*map(str, found[:MAX_SHOWN]), *(["…"] if len(found) > MAX_SHOWN else [])])
        raise InvalidTensor(
            f"{tensor.name}: found the shape [{shown:.200}], {expected_inputs(shape)} with N of at "
            "least 1"
        )
    if found[0] > limit:
        raise TooManyImages(too_many(f"{found[0]:,}"[:40], limit))
    return int(found[0])


def _pictures(tensor: Tensor, count: int) -> list[bytes]:
    if tensor.raw is not None:
        return elements_of(tensor.raw, count, PICTURES)
    found = _flat(tensor, (count, 1)[: len(tensor.shape)])
    pictures = []
    for index, each in enumerate(found):
        where = f"{PICTURES}.{index}"
        if isinstance(each, str):
            pictures.append(picture_of(each, where))
        elif isinstance(each, bytes):
            pictures.append(each)
        else:
            raise InvalidTensor(f"{where}: found {type(each).__name__}, expected base64 as a text")
    return pictures


def _pixels(tensor: Tensor, count: int, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    if tensor.raw is None:
        found = _flat(tensor, (count, *shape))
        starts = range(0, len(found), STEP)
        raw: bytes | memoryview = b"".join([_octets(found[at : at + STEP]) for at in starts])
    else:
        raw = tensor.raw
    size = count * math.prod(shape)
    if len(raw) != size:
        raise InvalidTensor(
            f"{IMAGES}: found {len(raw):,} bytes, the shape has {size:,} elements of one byte"
        )
    return np.frombuffer(raw, np.uint8).reshape(count, *shape)


def _octets(values: Sequence[Any]) -> bytes:
    """The bytes of some of the values.

    Raises:
        InvalidTensor: one is no integer from 0 to 255.
    """
    kinds = set(map(type, values)) - {int}
    if kinds:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise InvalidTensor(f"{IMAGES}: found {names}, expected integers from 0 to 255")
    try:
        return bytes(values)
    except (ValueError, OverflowError):
        raise InvalidTensor(f"{IMAGES}: expected integers from 0 to 255") from None


def elements_of(raw: memoryview, count: int, name: str) -> list[bytes]:
    """The elements of a BYTES tensor, each of which has its length before it.

    Raises:
        InvalidTensor: there are fewer elements, or bytes after the last one.
    """
    elements, start = [], 0
    for index in range(count):
        left = len(raw) - start - LENGTH.size
        if left < 0:
            raise InvalidTensor(
                f"{name}: the data ends in the length of element {index} of {count}, 4 bytes, "
                "little-endian"
            )
        (size,) = LENGTH.unpack_from(raw, start)
        if size > left:
            raise InvalidTensor(
                f"{name}: element {index} of {count} is to have {size:,} bytes, {left:,} are left"
            )
        start += LENGTH.size + size
        elements.append(bytes(raw[start - size : start]))
    if start != len(raw):
        raise InvalidTensor(
            f"{name}: found {len(raw) - start:,} bytes after the last of {count} elements"
        )
    return elements


def _flat(tensor: Tensor, shape: tuple[int, ...]) -> Sequence[Any]:
    """The values without the lists in lists, as many as a shape has."""
    assert tensor.values is not None
    found, depth = tensor.values, 1
    while depth < len(shape) and len(found) and type(found[0]) is list:
        inner = shape[depth]
        if len(found) != math.prod(shape[:depth]) or not all(
            type(each) is list and len(each) == inner for each in found
        ):
            break
        found, depth = list(chain.from_iterable(found)), depth + 1
    size = math.prod(shape)
    if len(found) != size or depth not in (1, len(shape)):
        raise InvalidTensor(
            f"{tensor.name}: the data does not have the {size:,} elements of its shape "
            f"[{','.join(map(str, shape))}], flat or in lists of lists"
        )
    return found
