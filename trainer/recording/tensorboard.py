"""TensorBoard event files, written without any package of TensorBoard's.

An event file is a sequence of records: length, its checksum, a protocol buffer `Event`, its
checksum. A training run needs three of its fields, so they are encoded here: the `tensorboard`
package would bring gRPC and a web server, and the writer of `tensorboardX` waits for ever where
its thread could not write (a full disk).
"""

import os
import struct
import sys
import time
from pathlib import Path
from typing import BinaryIO

from snapensemble.contracts.errors import WriteFailed
from snapensemble.contracts.files import explaining_failures
from snapensemble.contracts.manifest import ValFigures
from snapensemble.trainer.loop import Step
from snapensemble.trainer.schedule import Cycle

DIRECTORY = "tensorboard"
VARINT, DOUBLE, BYTES, FLOAT = 0, 1, 2, 5  # wire types of protocol buffers
CRC32C = 0x82F63B78  # Castagnoli's polynomial, reflected


class TensorBoard:
    """An observer that writes a run's scalars into `RUN_DIR/tensorboard`.

    Args:
        directory: made if it is not there; each start writes a new file into it.
        batch_size: images per step, for images_per_second.
        purge_step: of a resumed run, the first step that is run again; TensorBoard hides what
            earlier files hold from there on.
    """

    def __init__(self, directory: Path, *, batch_size: int, purge_step: int | None = None) -> None:
        self._path = directory / f"events.out.tfevents.{time.time_ns() // 1_000}.{os.getpid()}"
        self._batch_size = batch_size
        self._steps = 0  # of this epoch, in this process
        self._purge_step = purge_step
        self._file: BinaryIO

    def __enter__(self) -> "TensorBoard":
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("xb")
        except OSError as error:
            raise WriteFailed(f"{self._path}: cannot make it: {error.strerror}") from error
        self._write(event(file_version=b"brain.Event:2"))
        if self._purge_step is not None:
            self._write(event(step=self._purge_step, session_start=True))
        self.flush()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._file.close()
        except OSError as failure:  # must not hide the error that came before it
            print(f"{self._path}: last values lost: {failure.strerror}", file=sys.stderr)

    def step(self, step: Step, epoch: int, cycle: int) -> None:
        """Write loss and learning rate of an optimizer update."""
        scalars = {"train/loss": step.loss, "train/learning_rate": step.learning_rate}
        self._write(event(step=step.step, scalars=scalars))
        self._steps += 1

    def epoch(self, step: Step, epoch: int, cycle: int, val: ValFigures, seconds: float) -> None:
        """Write the validation figures at the epoch's last step, and how fast it was."""
        scalars = {f"val/{name}": value for name, value in val.said.items()}
        if self._steps:  # none where a resumed run had but the validation left to do
            scalars["images_per_second"] = self._steps * self._batch_size / seconds
        self._steps = 0
        self._write(event(step=step.step, scalars=scalars))
        self.flush()

    def snapshot(self, cycle: Cycle) -> None:
        """Write nothing: the rate shows where cycles end."""

    def _write(self, data: bytes) -> None:
        with explaining_failures(self._path):
            self._file.write(record(data))

    def flush(self) -> None:
        """Make all values so far reach the file."""
        with explaining_failures(self._path):
            self._file.flush()


def event(
    *,
    step: int = 0,
    scalars: dict[str, float] | None = None,
    file_version: bytes | None = None,
    session_start: bool = False,
) -> bytes:
    """A protocol buffer `Event` of this moment; field numbers as in TensorFlow's event.proto."""
    parts = [_key(1, DOUBLE) + struct.pack("<d", time.time()), _key(2, VARINT) + _varint(step)]
    if file_version is not None:
        parts.append(_sized(3, file_version))
    if scalars:
        values = (
            _sized(1, name.encode()) + _key(2, FLOAT) + struct.pack("<f", value)
            for name, value in scalars.items()
        )
        parts.append(_sized(5, b"".join(_sized(1, value) for value in values)))
    if session_start:
        parts.append(_sized(7, _key(1, VARINT) + _varint(1)))  # SessionLog.START
    return b"".join(parts)


def record(data: bytes) -> bytes:
    """A record of a TFRecord file."""
    length = struct.pack("<Q", len(data))
    return length + _masked_checksum(length) + data + _masked_checksum(data)


def _key(field: int, wire_type: int) -> bytes:
    return bytes([field << 3 | wire_type])


def _sized(field: int, data: bytes) -> bytes:
    return _key(field, BYTES) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    """Seven bits per byte, least first; the high bit says that more follow."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _checksum_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (CRC32C if value & 1 else 0)
        table.append(value)
    return tuple(table)


TABLE = _checksum_table()


def _masked_checksum(data: bytes) -> bytes:
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum = checksum >> 8 ^ TABLE[(checksum ^ byte) & 0xFF]
    checksum ^= 0xFFFFFFFF
    masked = (checksum >> 15 | checksum << 17) + 0xA282EAD8
    return struct.pack("<I", masked & 0xFFFFFFFF)
