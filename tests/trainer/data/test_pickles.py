import builtins
import os
import pickle
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.errors import InvalidData
from snapensemble.trainer.data.pickles import read_pickle, uint8_array
from tests.trainer.pickling import python2_pickle

FILE = Path("data_batch_1")
ARRAY = np.random.default_rng(0).integers(0, 256, (3, 5), dtype=np.uint8)


def test_our_pickles_are_what_pythons_own_reader_takes() -> None:
    """Proves the factory, with the reader that would run whatever it is asked to."""
    content = pickle.loads(python2_pickle({"data": ARRAY, "labels": [1, 2]}), encoding="bytes")
    np.testing.assert_array_equal(content[b"data"], ARRAY)
    assert content[b"labels"] == [1, 2]


def test_text_numbers_and_arrays_come_through() -> None:
    content = read_pickle(python2_pickle({"data": ARRAY, "labels": [1, 300], "n": "x"}), FILE)
    assert content["labels"] == [1, 300] and content["n"] == b"x"
    array = uint8_array(content["data"])
    assert array is not None
    np.testing.assert_array_equal(array, ARRAY)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("array", [ARRAY, np.asfortranarray(ARRAY)], ids=["C", "F"])
def test_what_python_3_wrote_with_todays_numpy_comes_through(
    protocol: int, array: np.ndarray[Any, Any]
) -> None:
    content = read_pickle(pickle.dumps({"data": array, "labels": [1]}, protocol), FILE)
    pixels = uint8_array(content["data"])
    assert pixels is not None and content["labels"] == [1]
    np.testing.assert_array_equal(pixels, array)


@pytest.mark.parametrize(
    "value",
    [ARRAY.astype(np.float64), ARRAY.astype(object), "text", 3, None, np.dtype("u1")],
    ids=["float64", "object", "text", "number", "nothing", "dtype"],
)
def test_anything_but_an_array_of_uint8_is_none(value: object) -> None:
    assert uint8_array(read_pickle(pickle.dumps({"data": value}, 2), FILE)["data"]) is None


class Malicious:
    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("call", [os.system, builtins.eval, builtins.exec, subprocess.Popen, open])
def test_a_pickle_that_names_anything_else_is_refused_without_running_it(
    tmp_path: Path, protocol: int, call: Callable[..., Any]
) -> None:
    mark = tmp_path / "ran"
    arguments: tuple[Any, ...] = {
        os.system: (f"touch {mark}",),
        builtins.eval: (f"open({str(mark)!r}, 'w')",),
        builtins.exec: (f"open({str(mark)!r}, 'w')",),
        subprocess.Popen: (["touch", str(mark)],),
        open: (str(mark), "w"),
    }[call]
    data = pickle.dumps({"data": Malicious(call, *arguments)}, protocol)
    with pytest.raises(InvalidData, match=rf"data_batch_1: found '\w+.{call.__name__}'"):
        read_pickle(data, FILE)
    assert not mark.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"(S'x'\nios\nsystem\n.",
        b"(cos\nsystem\nS'x'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy\nndarray.__class__\n.",
        b"c_codecs\ndecode\n.",
        b"ccopyreg\n_reconstructor\n.",
    ],
)
def test_names_are_refused_by_whatever_instruction_they_come(data: bytes) -> None:
    with pytest.raises(InvalidData, match="in the pickle, which no official file holds"):
        read_pickle(data, FILE)


def test_an_allowed_call_is_not_made() -> None:
    """A real _codecs.encode would look the codec up, and some of them cost minutes."""
    content = read_pickle(b"}S'a'\nc_codecs\nencode\n(Vx\nVno-such-codec\ntRs.", FILE)
    assert uint8_array(content["a"]) is None


def test_a_memo_index_that_would_reserve_gigabytes_is_refused() -> None:
    with pytest.raises(InvalidData, match="far more complicated"):
        read_pickle(b"\x80\x02}r" + struct.pack("<I", 1 << 31) + b".", FILE)


def test_tuples_nested_to_overflow_the_stack_are_refused() -> None:
    with pytest.raises(InvalidData, match="far more complicated"):
        read_pickle(b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s.", FILE)


@pytest.mark.parametrize("data", [b"", b".", b"no pickle", b"\x80\x02]q\x01.", b"\x80\xff}."])
def test_what_is_no_pickle_of_a_dictionary_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidData, match="data_batch_1: "):
        read_pickle(data, FILE)


@given(st.integers(0, 400), st.integers(0, 255), st.booleans())
def test_a_damaged_pickle_is_refused_or_read_but_never_breaks(
    at: int, byte: int, cut: bool
) -> None:
    data = bytearray(python2_pickle({"data": ARRAY, "labels": [1, 2, 3]}))
    at %= len(data)
    data[at] = byte
    try:
        uint8_array(read_pickle(bytes(data[:at] if cut else data), FILE).get("data"))
    except InvalidData:
        pass
