import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from snapensemble.trainer.data import memmap as mapped
from snapensemble.trainer.data.memmap import (
    cache_directory,
    is_mapped,
    open_rows,
    take_rows,
    write_rows,
)


def images(count: int) -> Iterator[NDArray[np.uint8]]:
    return (np.full((1, 2, 3), i, dtype=np.uint8) for i in range(count))


@pytest.mark.parametrize(("count", "most"), [(5, 5), (5, 1_000_000_000), (0, 3)])
def test_an_array_is_written_row_by_row_without_knowing_how_many(
    tmp_path: Path, count: int, most: int
) -> None:
    assert write_rows(tmp_path / "a.npy", images(count), most, (1, 2, 3)) == count
    expected = np.arange(count).reshape(-1, 1, 1, 1) * np.ones((1, 1, 2, 3))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)
    mapped = open_rows(tmp_path / "a.npy")
    np.testing.assert_array_equal(mapped, expected)
    assert is_mapped(mapped) and mapped.flags.writeable


def test_what_is_written_to_the_map_does_not_reach_the_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.npy", images(5), 5, (1, 2, 3))
    open_rows(tmp_path / "a.npy")[:] = 99
    assert open_rows(tmp_path / "a.npy").max() == 4


def test_rows_of_a_map_are_a_map_and_rows_of_memory_are_memory(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.npy", images(5), 5, (1, 2, 3))
    whole = open_rows(tmp_path / "a.npy")
    chosen_N = np.array([True, False, True, True, False])
    before = sorted(cache_directory().iterdir())
    part = take_rows(whole[:], chosen_N)
    assert is_mapped(part) and part[:, 0, 0, 0].tolist() == [0, 2, 3]
    assert sorted(cache_directory().iterdir()) == before
    again = take_rows(part, np.array([False, True, False]))
    assert is_mapped(again) and again[:, 0, 0, 0].tolist() == [2]
    assert not is_mapped(take_rows(np.array(whole), chosen_N))
    assert len(take_rows(whole, np.zeros(5, dtype=bool))) == 0


def test_rows_go_to_memory_where_no_file_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "a.npy", images(5), 5, (1, 2, 3))
    monkeypatch.setenv("SNAPENSEMBLE_CACHE", str(tmp_path / "nowhere"))
    part = take_rows(open_rows(tmp_path / "a.npy"), np.arange(5) > 2)
    assert not is_mapped(part) and part[:, 0, 0, 0].tolist() == [3, 4]


def test_more_images_than_memory_can_be_opened_and_split(tmp_path: Path) -> None:
    """Of holes: the file takes no room on the disk, and a plain private map of it is refused."""
    shape, memory = (3, 1024, 1024), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    count = memory // (3 << 20) + 1000
    write_rows(tmp_path / "a.npy", iter([np.ones(shape, dtype=np.uint8)]), 1, shape)
    with (tmp_path / "a.npy").open("r+b") as file:
        mapped._write_header(file, (count, *shape))
        os.truncate(file.name, file.tell() + count * (3 << 20))
    whole = open_rows(tmp_path / "a.npy")
    assert whole.nbytes > memory and whole[0].all() and not whole[-1].any()
    chosen_N = np.zeros(count, dtype=bool)
    chosen_N[[0, count - 1]] = True
    assert take_rows(whole, chosen_N).mean(axis=(1, 2, 3)).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SNAPENSEMBLE_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/snapensemble"),
        ({"SNAPENSEMBLE_CACHE": "", "XDG_CACHE_HOME": ""}, "/home/me/.cache/snapensemble"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/snapensemble"),
        ({}, "/home/me/.cache/snapensemble"),
    ],
)
def test_where_the_cache_is(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for name in ("SNAPENSEMBLE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_directory() == Path(expected)
