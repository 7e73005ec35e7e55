import errno
import hashlib
import os
import signal
from pathlib import Path

import pytest

from snapensemble.contracts.errors import InvalidManifest, WriteFailed
from snapensemble.contracts.files import (
    hidden_directory,
    read_verified,
    sha256_of,
    write_atomically,
)
from tests.forks import forked


def test_written_bytes_are_there_and_their_hash_is_returned(tmp_path: Path) -> None:
    sha256 = write_atomically(tmp_path / "a", b"hello")
    assert (tmp_path / "a").read_bytes() == b"hello"
    assert sha256 == hashlib.sha256(b"hello").hexdigest()


def test_a_full_disk_leaves_the_old_file_whole_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "a", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteFailed, match="disk is full"):
        write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_an_interrupt_leaves_the_old_file_whole_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "a", b"old")

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", b"new")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_another_user_may_read_what_was_written(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"x")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_one_changed_byte_is_found(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hellO")
    with pytest.raises(InvalidManifest, match="sha256 is .* the manifest says"):
        read_verified(tmp_path, "a", sha256_of(b"hello"))


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="gone"):
        read_verified(tmp_path, "gone", "0" * 64)


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    (inside / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidManifest, match="leads outside"):
        read_verified(inside, "link", sha256_of(b"x"))


def test_what_a_killed_process_has_left_is_removed_by_the_next(tmp_path: Path) -> None:
    def killed() -> int:
        with hidden_directory(tmp_path, ".new-") as directory:
            (directory / "half").write_bytes(b"many bytes")
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    with forked(killed) as process:
        assert process.wait() == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    with hidden_directory(tmp_path, ".new-") as directory:
        assert list(tmp_path.iterdir()) == [directory] != [left]


def test_a_directory_that_is_being_filled_stays_and_so_does_what_is_called_otherwise(
    tmp_path: Path,
) -> None:
    (tmp_path / ".new-file").write_bytes(b"")
    (tmp_path / ".other").mkdir()
    with hidden_directory(tmp_path, ".new-") as first, hidden_directory(tmp_path, ".new-") as other:
        assert first.is_dir() and other.is_dir() and first != other
    assert sorted(each.name for each in tmp_path.iterdir()) == [".new-file", ".other"]
