import subprocess
import sys

import pytest

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
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
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
