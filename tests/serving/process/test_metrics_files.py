"""Where workers count together."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.serving.process.metrics_files import PREFIX, metrics_files, remove_abandoned

COUNT = """
import os, sys
from pathlib import Path
from snapensemble.serving.process.metrics_files import count_as
count_as(int(sys.argv[1]))
from snapensemble.serving.telemetry.metrics import Metrics
metrics = Metrics(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
metrics.request("/predict", 200, 0.1)
metrics.queued.set(7)
sys.stdout.buffer.write(metrics.page())
sys.stdout.flush()
os.kill(os.getpid(), 9)
"""


def count_and_die(directory: Path, place: int) -> str:
    """What a worker shows that counts one request and then is killed."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT, str(place)],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9, done.stderr
    return done.stdout


def test_who_replaces_a_worker_counts_on_in_the_same_files(tmp_path: Path) -> None:
    with metrics_files(tmp_path) as files:
        for number, place in enumerate([0, 1, 1, 0, 1], start=1):
            page = count_and_die(files.directory, place)
            assert f'requests_total{{code="200",route="/predict"}} {number}.0' in page
            files.forget_gauges(place)
        names = sorted(file.name for file in files.directory.iterdir())
        assert names == ["counter_0.db", "counter_1.db", "histogram_0.db", "histogram_1.db"]
    assert not files.directory.exists()


def test_what_a_worker_was_doing_when_it_ended_is_forgotten(tmp_path: Path) -> None:
    with metrics_files(tmp_path) as files:
        count_and_die(files.directory, 0)
        page = count_and_die(files.directory, 1)
        assert "snapensemble_queue_images 14.0" in page
        files.forget_gauges(0)
        assert "snapensemble_queue_images 7.0" in count_and_die(files.directory, 1)


def test_a_directory_stays_as_long_as_any_process_holds_it(tmp_path: Path) -> None:
    with metrics_files(tmp_path) as files:
        holder = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[files.lock])
        heir = tmp_path / f"{PREFIX}heir"
        files.directory.rename(heir)  # so that the end of the block does not remove it
    remove_abandoned(tmp_path)
    assert heir.exists()
    holder.communicate()
    remove_abandoned(tmp_path)
    assert not heir.exists()


def test_the_next_start_removes_what_a_killed_server_has_left(tmp_path: Path) -> None:
    left, other = tmp_path / f"{PREFIX}left", tmp_path / "snapensemble-of-another-kind"
    left.mkdir()
    other.mkdir()
    (left / "counter_0.db").touch()
    with metrics_files(tmp_path) as files:
        assert not left.exists() and other.exists()
        with metrics_files(tmp_path) as more:  # nor does one take the other's away
            assert files.directory.exists() and more.directory.exists()
    assert list(tmp_path.iterdir()) == [other]


def test_a_link_in_its_place_leads_nowhere(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(precious)
    remove_abandoned(tmp_path)
    assert precious.exists()


def test_no_place_to_write_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="--workers 1"), metrics_files(tmp_path / "no"):
        pass
