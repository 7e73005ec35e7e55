import errno
import hashlib
import os
import signal
from pathlib import Path

import pytest

from snapensemble.contracts.errors import InvalidManifest, WriteFailed
from snapensemble.contracts.files import (
    explaining_failures,
    hidden_directory,
    read_at_most,
    read_verified,
    refuse_unwritable,
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
    with pytest.raises(WriteFailed, match="the disk is full, 3 bytes were to be written; free"):
        write_atomically(tmp_path / "a", b"new")
    with pytest.raises(WriteFailed, match=r"the disk is full, 0\.2 MB were to be written; free"):
        write_atomically(tmp_path / "a", bytes(200_000))
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_has_the_same_words_wherever_it_is_noticed(tmp_path: Path, code: int) -> None:
    said = "a: the disk is full; free some space"
    with pytest.raises(WriteFailed, match=said), explaining_failures(tmp_path / "a"):
        raise OSError(code, os.strerror(code))


def test_an_error_without_a_number_is_said_in_its_own_words(tmp_path: Path) -> None:
    said = "a: cannot write: the index is torn"
    with pytest.raises(WriteFailed, match=said), explaining_failures(tmp_path / "a"):
        raise OSError("the index is torn")


def test_whether_a_directory_can_be_made_is_asked_without_a_trace(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path / "new" / "below")
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("file", "file/below", "loop"):
        with pytest.raises(WriteFailed, match="cannot write: .*; choose another place for"):
            refuse_unwritable(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]


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


def test_a_file_is_read_no_further_than_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(1_001))
    for path in (Path("/dev/zero"), tmp_path / "large"):
        with pytest.raises(OSError, match="has more than 1,000 bytes, the most allowed"):
            read_at_most(path, 1_000)
    assert read_at_most(tmp_path / "large", 1_001) == bytes(1_001)


def test_a_pipe_that_a_user_names_is_read(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"picture")
    os.close(writing)
    assert read_at_most(Path(f"/dev/fd/{reading}"), 7) == b"picture"
    os.close(reading)


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
