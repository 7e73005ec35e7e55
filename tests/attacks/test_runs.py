"""Runs and data sets from strangers: headers cost nothing, and promise what follows."""

import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from snapensemble.contracts.errors import InvalidData, InvalidManifest
from snapensemble.contracts.files import sha256_of
from snapensemble.contracts.manifest import FileRef
from snapensemble.contracts.run import Snapshot, parse_array, read_array, read_run
from snapensemble.report.run.history import read_history
from snapensemble.trainer.data.readers import npz
from snapensemble.trainer.recording.checkpoint import load_checkpoint
from snapensemble.trainer.recording.snapshots import load_model
from tests.attacks.test_bundles import most_bytes

DTYPES = (np.uint8, np.int64, np.float32)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def with_header(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + data


def header(descr: str = "'|u1'", shape: str = "(4,)", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (2, 1, 3, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_numpy_writes_is_read(dtype: type, shape: tuple[int, ...], order: Any) -> None:
    array: NDArray[Any] = (
        np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype, order=order)
    )
    found: NDArray[Any] = parse_array(npy(array), dtype)
    assert found.dtype == dtype and found.flags.writeable
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    "data",
    [
        with_header(header(shape="(1000000000000,)"), b"1234"),
        with_header(header(shape="(-4,)"), b"1234"),
        with_header(header(shape="(4, 0)"), b"1234"),
        with_header(header(shape="(4,)"), b"123"),
        with_header(header(shape="(4,)"), b"12345"),
        with_header(header(shape=f"({'1, ' * 60})"), b"1"),
        with_header(header(shape=f"({'9' * 5_000},)"), b"1234"),
        with_header(header(descr="'|O'"), b"1234"),
        with_header(header(descr="'<f8'"), b"12345678"),
        with_header(header(descr="[('a', '|u1', (4,))]", shape="(1,)"), b"1234"),
        with_header(header(descr="('|u1', (1000000000,))", shape="(1,)"), b"1"),
        with_header(header(shape="(2**62,)"), b"1234"),
        with_header("(" * 9_000),
        with_header("[" * 30_000 + "]" * 30_000),
        with_header("'a' " * 16_000),
        with_header("__import__('os').abort()"),
        with_header(header(), b"1234", version=b"\x02\x00"),
        with_header(header(), b"1234", version=b"\x03\x00"),
        b"\x93NUMPY\x01\x00\xff\xff" + b" " * 20,
        b"\x93NUMPY",
        b"",
        b"PK\x03\x04",
        b"\x80\x04K\x01.",  # a pickle
    ],
)
def test_a_header_that_promises_what_does_not_follow_is_refused_before_memory_is_taken(
    data: bytes,
) -> None:
    with most_bytes(1_000_000), pytest.raises(ValueError):
        parse_array(data, np.uint8)


@given(st.data())
def test_a_damaged_array_is_refused_or_has_the_bytes_that_are_there(data: st.DataObject) -> None:
    whole = bytearray(npy(np.arange(24, dtype=np.uint8).reshape(2, 3, 4)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = parse_array(bytes(whole), np.uint8)
    except ValueError:
        return
    assert found.nbytes == 24


def test_an_array_of_a_run_is_no_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "val-labels.npy")
    with pytest.raises(InvalidManifest, match="a FIFO"):
        read_array(tmp_path, FileRef(file="val-labels.npy", sha256="0" * 64), np.int64)


def test_an_array_of_a_run_is_named_when_it_is_refused(tmp_path: Path) -> None:
    data = with_header(header(shape="(1000000000000,)"))
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(InvalidManifest, match=r"a\.npy: its header says shape"):
        read_array(tmp_path, FileRef(file="a.npy", sha256=sha256_of(data)), np.uint8)


def npz_file(file: Path, **changed: bytes) -> Path:
    good = {
        "x_train": npy(np.zeros((4, 8, 8), np.uint8)),
        "y_train": npy(np.arange(4) % 2),
        "classes": npy(np.array(["a", "b"])),
    }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as parts:
        for name, data in {**good, **changed}.items():
            parts.writestr(f"{name}.npy", data)
    return file


def test_an_npz_file_is_read(tmp_path: Path) -> None:
    found = npz(npz_file(tmp_path / "a.npz"))
    assert found.train is not None and len(found.train) == 4 and found.classes == ("a", "b")


@pytest.mark.parametrize(
    "data",
    [
        with_header(header(shape="(100000000, 100, 100)"), b"1234"),
        with_header(header(descr="'|O'"), b"12345678"),
        with_header(header(descr="[('a', '|u1', (4000000000,))]", shape="(1,)"), b"1234"),
        b"PK",
    ],
)
def test_an_array_of_an_npz_file_takes_no_memory_that_it_does_not_fill(
    tmp_path: Path, data: bytes
) -> None:
    file = npz_file(tmp_path / "a.npz", x_train=data)
    with most_bytes(10_000_000), pytest.raises(InvalidData, match="cannot read as .npz"):
        npz(file)


def test_a_small_npz_file_does_not_fill_the_memory(tmp_path: Path) -> None:
    """Pictures of zeros, 400 MB from 400 kB."""
    start = npy(np.zeros((0, 1000, 1000), np.uint8)).replace(
        b"(0, 1000, 1000), }  ", b"(400, 1000, 1000), }"
    )
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as parts,
        parts.open("x_train.npy", "w", force_zip64=True) as part,
    ):
        part.write(start)
        for _ in range(400):
            part.write(bytes(1_000_000))
    with most_bytes(10_000_000), pytest.raises(InvalidData, match="more than 200-fold"):
        npz(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        (2**62).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}",
        b"[" * 1_000,
        json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}).encode(),
        json.dumps({"w": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}}).encode(),
        json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}}).encode(),
    ],
)
def test_a_snapshot_with_a_hostile_header_is_refused(
    digits_run: Path, tmp_path: Path, data: bytes
) -> None:
    run = read_run(digits_run)
    if data.startswith(b'{"w"'):
        data = len(data).to_bytes(8, "little") + data + b"\0" * 4
    (tmp_path / "w.safetensors").write_bytes(data)
    snapshot = run.snapshots[0].model_copy(
        update={"file": "w.safetensors", "sha256": sha256_of(data), "size": len(data)}
    )
    with pytest.raises(InvalidManifest, match="does not fit"):
        load_model(tmp_path, run, snapshot)


def test_a_run_says_how_large_its_files_are(digits_run: Path) -> None:
    run = read_run(digits_run)
    assert run.config is not None
    files: list[FileRef | Snapshot] = [run.config, run.val_labels, run.calibration_images]
    for each in (*files, *run.snapshots, *(snapshot.val_logits for snapshot in run.snapshots)):
        assert each.size == (digits_run / each.file).stat().st_size


def test_counts_that_no_array_holds_are_refused(digits_run: Path, tmp_path: Path) -> None:
    content = json.loads((digits_run / "run.json").read_text())
    content["data"]["class_counts"][3] = 10**30
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(InvalidManifest, match=r"data\.class_counts\.3"):
        read_run(tmp_path)


def test_the_number_of_cycles_takes_no_memory(digits_run: Path, tmp_path: Path) -> None:
    content = json.loads((digits_run / "run.json").read_text())
    content["schedule"] |= {"cycles": 10**12, "cycle_ends": []}
    (tmp_path / "run.json").write_text(json.dumps(content))
    with most_bytes(1_000_000):
        assert not read_run(tmp_path).complete


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["run.json", "checkpoint.pt", "metrics.jsonl"])
def test_a_run_whose_files_are_none_is_not_waited_for(
    digits_run: Path, tmp_path: Path, name: str
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(digits_run, run_dir)
    (run_dir / name).unlink(missing_ok=True)
    os.mkfifo(run_dir / name)
    with pytest.raises(InvalidManifest, match="a FIFO"):
        if name == "metrics.jsonl":
            read_history(run_dir)
        elif name == "run.json":
            read_run(run_dir)
        else:
            load_checkpoint(run_dir, None)  # type: ignore[arg-type] # not reached
