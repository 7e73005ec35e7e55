import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.children import ended
from snapensemble.bench import processes
from snapensemble.bench.processes import (
    PROC,
    cpu_seconds,
    family,
    peak_resident_bytes,
    resident_bytes,
)

pytestmark = pytest.mark.skipif(not (PROC / "self/stat").exists(), reason="needs /proc of Linux")
PARENT = """
import subprocess, sys, time
end = time.process_time() + 0.2
while time.process_time() < end: pass
subprocess.run([sys.executable, "-c", "print('running', flush=True); input()"])
"""


def test_what_a_process_and_its_child_use() -> None:
    command = [sys.executable, "-c", PARENT]
    with ended(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)) as process:
        assert process.stdout is not None and process.stdout.readline() == b"running\n"
        parent, child = family(process.pid)
        used_s, alone = cpu_seconds(parent), peak_resident_bytes(parent, children=False)
        # The peak last: both processes may still grow.
        now, both = resident_bytes(parent), peak_resident_bytes(parent)
        assert used_s is not None and 0.2 <= used_s < 30
        assert alone is not None and both is not None and now is not None
        assert 2**20 < alone < both and now <= both
        process.communicate(b"\n")
    assert family(child) == [child] and cpu_seconds(child) is None
    assert resident_bytes(child) is None


def test_a_process_that_ends_while_it_is_looked_at_has_no_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the listing of a folder of /proc and the reading of it the process may be gone."""
    (tmp_path / "7" / "task" / "7").mkdir(parents=True)
    monkeypatch.setattr(processes, "PROC", tmp_path)
    assert family(7) == [7]  # no file `children` any more
    assert family(8) == [8]  # and no folder
    real, calls = Path.iterdir, []

    def vanishing(self: Path) -> Iterator[Path]:
        calls.append(self)
        (self / "7").rmdir()
        self.rmdir()
        return real(self)

    monkeypatch.setattr(Path, "iterdir", vanishing)
    assert family(7) == [7] and calls
