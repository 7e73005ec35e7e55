import errno
import os
import struct
from pathlib import Path

import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event, SessionLog

from snapensemble.contracts.errors import WriteFailed
from snapensemble.contracts.manifest import ValFigures
from snapensemble.trainer.loop import Step
from snapensemble.trainer.recording.tensorboard import TensorBoard, record

VAL = ValFigures(nll=0.25, accuracy=0.75, macro_accuracy=0.5)


def events(directory: Path) -> list[Event]:
    """All events of the directory's files in order, read with the checksums of tensorboardX."""
    found = []
    for file in sorted(directory.iterdir()):
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            assert data[8:12] == masked(data[:8])
            assert data[12 + size : 16 + size] == masked(data[12 : 12 + size])
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def masked(data: bytes) -> bytes:
    checksum = crc32c(data)
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def scalars(event: Event) -> dict[str, float]:
    return {value.tag: value.simple_value for value in event.summary.value}


def test_every_step_and_every_epoch_is_an_event(tmp_path: Path) -> None:
    with TensorBoard(tmp_path / "tensorboard", batch_size=100) as board:
        board.step(Step(0, 0.5, 2.25), 0, 0)
        board.step(Step(300, 0.25, 1.5), 0, 0)  # two bytes as a varint
        board.epoch(Step(300, 0.25, 1.5), 0, 0, VAL, 0.5)
    first, *rest = events(tmp_path / "tensorboard")
    assert first.file_version == "brain.Event:2" and first.wall_time > 1e9
    assert [event.step for event in rest] == [0, 300, 300]
    assert scalars(rest[0]) == {"train/loss": 2.25, "train/learning_rate": 0.5}
    assert scalars(rest[1]) == {"train/loss": 1.5, "train/learning_rate": 0.25}
    assert scalars(rest[2]) == {
        "val/nll": 0.25,
        "val/accuracy": 0.75,
        "val/macro_accuracy": 0.5,
        "images_per_second": 400,
    }


def test_a_resumed_run_hides_the_steps_that_are_run_again(tmp_path: Path) -> None:
    for purge_step in (None, 1):
        with TensorBoard(tmp_path, batch_size=1, purge_step=purge_step) as board:
            board.step(Step(1, 0.5, 2.0), 0, 0)
    assert len(list(tmp_path.iterdir())) == 2
    starts = [e for e in events(tmp_path) if e.HasField("session_log")]
    assert [(e.step, e.session_log.status) for e in starts] == [(1, SessionLog.START)]


def test_readers_see_an_epoch_as_soon_as_it_is_over(tmp_path: Path) -> None:
    with TensorBoard(tmp_path, batch_size=1) as board:
        board.epoch(Step(9, 0.5, 2.0), 0, 0, VAL, 1.0)
        assert events(tmp_path)[-1].step == 9


def test_a_full_disk_is_an_error_with_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def write(self, data: bytes) -> None:
            pass

        close = flush

    with (
        pytest.raises(WriteFailed, match="events.out.tfevents.*the disk is full; free some space"),
        TensorBoard(tmp_path, batch_size=1) as board,
    ):
        board._file.close()
        monkeypatch.setattr(board, "_file", Full())
        board.epoch(Step(9, 0.5, 2.0), 0, 0, VAL, 1.0)


def test_a_directory_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(WriteFailed, match="cannot make it"),
        TensorBoard(tmp_path / "file" / "tensorboard", batch_size=1),
    ):
        pass


def test_a_record_has_the_checksum_that_everyone_computes() -> None:
    # CRC-32C of "123456789" is e3069283 in every catalogue of checksums.
    checksum = 0xE3069283
    expected = ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert record(b"123456789")[-4:] == struct.pack("<I", expected)
