import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL
import pytest

from snapensemble.contracts import pixels
from snapensemble.contracts.errors import InvalidData
from snapensemble.trainer.data import cache as folder_cache
from snapensemble.trainer.data import decoding
from snapensemble.trainer.data import memmap as mapped
from snapensemble.trainer.data.memmap import is_mapped
from tests.factories import encoded, picture
from tests.trainer.folders import load, make_folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own."""
    monkeypatch.setenv("SNAPENSEMBLE_CACHE", str(tmp_path / "the cache"))
    return tmp_path / "the cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "photos", {"a": 6, "b": 6})


@pytest.fixture
def decoded_files(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the files that were decoded, as they are."""
    seen: list[int] = []

    def decode(data: bytes, **options: Any) -> Any:
        seen.append(len(data))
        return pixels.decode_image(data, **options)

    monkeypatch.setattr(decoding, "decode_image", decode)
    return seen


def test_a_folder_is_decoded_once(cache: Path, folder: Path, decoded_files: list[int]) -> None:
    first = load(folder)
    assert len(decoded_files) == 12
    second = load(folder)
    assert len(decoded_files) == 12
    assert first.fingerprint() == second.fingerprint()
    np.testing.assert_array_equal(first.part("test").images_NCHW, second.part("test").images_NCHW)
    assert [sorted(os.listdir(entry)) for entry in cache.iterdir()] == [
        ["images.npy", "index.json"]
    ]


def test_no_part_of_a_cached_folder_lies_in_memory(cache: Path, folder: Path) -> None:
    make_folder(folder / "parts" / "train", {"a": 6, "b": 6})
    for data in (load(folder), load(folder / "parts")):
        assert is_mapped(data.train.images_NCHW) and is_mapped(data.val.images_NCHW)


def test_torch_takes_the_images_as_they_are(cache: Path, folder: Path) -> None:
    torch = pytest.importorskip("torch")
    images_NCHW = load(folder).train.images_NCHW
    assert torch.from_numpy(images_NCHW).data_ptr() == images_NCHW.ctypes.data


def test_bad_images_are_remembered_too(
    cache: Path, folder: Path, decoded_files: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "a" / "2a.png").write_text("no picture")
    with pytest.raises(InvalidData, match="2a.png: not an image"):
        load(folder)
    first = capfd.readouterr().err
    labels = [load(folder, max_bad_images=1).train.labels_N.tolist() for _ in range(2)]
    assert len(decoded_files) == 13
    assert labels[0] == labels[1] == [0] * 4 + [1] * 4
    assert first == "" and capfd.readouterr().err.count("a/2a.png: not an image") == 2


def change_content(folder: Path) -> None:
    file = folder / "a" / "0.png"
    times = file.stat()
    file.write_bytes(encoded(picture(7, width=20, height=16)))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns + 1))


def swap_files_of_one_size(folder: Path) -> None:
    """Sizes and times of change stay as they were."""
    for name in ("0", "1"):
        pixels = encoded(picture(int(name), width=20, height=16), "BMP")
        (folder / "a" / f"{name}.png").write_bytes(pixels)
        os.utime(folder / "a" / f"{name}.png", ns=(0, 0))
    load(folder)
    (folder / "a" / "0.png").rename(folder / "a" / "2.tmp")
    (folder / "a" / "1.png").rename(folder / "a" / "0.png")
    (folder / "a" / "2.tmp").rename(folder / "a" / "1.png")


def rename(folder: Path) -> None:
    (folder / "a" / "0.png").rename(folder / "a" / "9.png")


def move_to_another_class(folder: Path) -> None:
    (folder / "a" / "0.png").rename(folder / "b" / "a0.png")


def remove(folder: Path) -> None:
    (folder / "a" / "0.png").unlink()


@pytest.mark.parametrize(
    "change",
    [change_content, swap_files_of_one_size, rename, move_to_another_class, remove],
)
def test_a_changed_folder_is_decoded_anew(
    cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    before = load(folder).fingerprint()
    change(folder)
    cached = load(folder).fingerprint()
    monkeypatch.setenv("SNAPENSEMBLE_CACHE", str(cache / "another"))
    assert cached == load(folder).fingerprint() != before


def test_size_channels_decoder_and_place_have_entries_of_their_own(
    cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(folder, image_size=8)
    load(folder, image_size=9)
    load(folder, image_size=8, channels=1)
    assert len(list(cache.iterdir())) == 3
    monkeypatch.setattr(PIL, "__version__", "0")
    load(folder, image_size=8)
    assert len(list(cache.iterdir())) == 4
    folder.rename(folder.with_name("moved"))
    load(folder.with_name("moved"), image_size=8)
    assert len(list(cache.iterdir())) == 5


def truncate(entry: Path) -> None:
    os.truncate(entry / "images.npy", 1000)


def overwrite(entry: Path) -> None:
    times = (entry / "images.npy").stat()
    with (entry / "images.npy").open("r+b") as file:
        file.seek(5000)
        file.write(bytes(100))
    os.utime(entry / "images.npy", ns=(times.st_atime_ns, times.st_mtime_ns + 1))


def lose_index(entry: Path) -> None:
    (entry / "index.json").unlink()


def lose_images(entry: Path) -> None:
    (entry / "images.npy").unlink()


def garble_index(entry: Path) -> None:
    (entry / "index.json").write_text('{"bad": 3}')


def count_otherwise(entry: Path) -> None:
    index = (entry / "index.json").read_text()
    (entry / "index.json").write_text(index.replace('"bad": []', '"bad": [[0, "why"]]'))


def garble_images(entry: Path) -> None:
    (entry / "images.npy").write_bytes(b"no array at all" * 9999)


@pytest.mark.parametrize(
    "damage",
    [truncate, overwrite, lose_index, lose_images, garble_index, count_otherwise, garble_images],
)
def test_a_damaged_entry_is_made_anew(
    cache: Path, folder: Path, decoded_files: list[int], damage: Any
) -> None:
    expected = load(folder).fingerprint()
    damage(next(cache.iterdir()))
    assert load(folder).fingerprint() == expected
    assert len(decoded_files) == 24
    assert load(folder).fingerprint() == expected
    assert len(decoded_files) == 24 and len(list(cache.iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_said_once_and_no_error(
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    make_folder(folder / "parts" / "train", {"a": 4, "b": 4})
    make_folder(folder / "parts" / "test", {"a": 4, "b": 4})
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SNAPENSEMBLE_CACHE", str(tmp_path / "file"))
    data = load(folder / "parts")
    assert len(data.train) == 6 and not is_mapped(data.train.images_NCHW)
    said = capfd.readouterr().err
    assert said.count("decoded images are not kept") == 1 and str(tmp_path / "file") in said


@pytest.mark.parametrize("after", [0, 5])
def test_a_disk_that_fills_up_is_no_error_and_leaves_nothing(
    cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    def write(file: Path, images: Any, *rest: Any) -> int:
        file.write_bytes(b"".join(next(images).tobytes() for _ in range(after)))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(folder_cache, "write_rows", write)
    data = load(folder)
    assert sum(map(len, (data.train, data.val, data.part("test")))) == 12
    assert list(cache.iterdir()) == []


def test_without_space_nothing_is_begun_and_more_than_memory_is_refused(
    cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, decoded_files: list[int]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=9999))
    monkeypatch.setattr(os, "sysconf", lambda _: 100)
    with pytest.raises(InvalidData, match="need .* GB of memory.*SNAPENSEMBLE_CACHE"):
        load(folder)
    assert decoded_files == []


def test_a_file_that_the_disk_does_not_give_is_asked_for_again(
    cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_bytes = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.name == "3.png":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        assert load(folder, max_bad_images=2).bad_images == 2
    assert load(folder).bad_images == 0


def test_two_processes_may_make_the_same_entry_at_once(cache: Path, folder: Path) -> None:
    code = (
        "import sys; from snapensemble.trainer.data.dataset import load_dataset; "
        "print(load_dataset(sys.argv[1], val_fraction=0.25, split_seed=0).fingerprint())"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    prints = {process.communicate()[0].decode().strip() for process in started}
    assert prints == {load(folder).fingerprint()}
    assert len(list(cache.iterdir())) == 1


def test_an_entry_that_another_process_made_meanwhile_stays(
    cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one comes first while this one is still decoding."""
    write_rows = mapped.write_rows

    def late(*arguments: Any) -> int:
        monkeypatch.setattr(folder_cache, "write_rows", write_rows)
        load(folder)
        return write_rows(*arguments)

    monkeypatch.setattr(folder_cache, "write_rows", late)
    data = load(folder)
    assert data.fingerprint() == load(folder).fingerprint() and is_mapped(data.train.images_NCHW)
    assert len(list(cache.iterdir())) == 1
