"""All processes of a server: how they are found, watched and ended."""

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass

from snapensemble.bench.processes import PROC, own_cpu_seconds, stat

MARK = "PEER_MARK"  # a variable in the environment of all of a server's processes
END_S = 15.0


@dataclass(frozen=True, slots=True)
class ProcessTree:
    """A process and all that come from it, also those that have left its session.

    `mark` is the value of MARK in its environment, given to no other.
    """

    root: "subprocess.Popen[bytes]"
    mark: str

    def pids(self) -> set[int]:
        """The living processes: the root, those with the mark, and all their children.

        Either way alone misses some: a process may write a title over its environment, or have
        lost its parent.
        """
        parents = parents_of_all()
        found = {self.root.pid} | {pid for pid in parents if self._has_mark(pid)}
        while new := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= new
        return found & parents.keys()

    def cpu_s(self) -> float:
        """Processor seconds of the living processes and of their children that have ended."""
        return sum(own_cpu_seconds(pid) or 0.0 for pid in self.pids())

    def memory_mib(self) -> float:
        """The memory of the living processes; a page that several share counts once (PSS)."""
        return sum(map(pss_mib, self.pids()))

    def end(self) -> None:
        """Ask the root to end, wait, and kill what is left of the tree."""
        ids = {pid: started(pid) for pid in self.pids()}
        if self.root.poll() is None:
            self.root.terminate()
        until = time.monotonic() + END_S
        while time.monotonic() < until and self.root.poll() is None:
            time.sleep(0.1)
        ids |= {pid: started(pid) for pid in self.pids()}
        for pid, when in ids.items():
            if when and started(pid) == when:  # not another process with the same id
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.root.wait()

    def _has_mark(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            variables = (PROC / str(pid) / "environ").read_bytes().split(b"\0")
            return f"{MARK}={self.mark}".encode() in variables
        return False


def parents_of_all() -> dict[int, int]:
    """Each living process of the machine and its parent."""
    pids = [int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal()]
    fields = {pid: stat(pid) for pid in pids}
    return {pid: int(found[1]) for pid, found in fields.items() if found and found[0] not in "ZX"}


def started(pid: int) -> str:
    """When a process was started, in the system's ticks; empty if it is gone."""
    found = stat(pid)
    return found[19] if found else ""


def pss_mib(pid: int) -> float:
    """A process's own memory and its part of what it shares with others."""
    with contextlib.suppress(OSError):
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0
