"""A server's processes, all of them: started, watched and ended."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
MARK = "PEER_MARK"
END_S = 20.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ProcessTree:
    """A process and all that come from it, also those that have left its session."""

    root: subprocess.Popen[bytes]
    mark: str
    _finished_s: dict[int, float] = field(default_factory=dict)

    def pids(self) -> list[int]:
        """The living ones: the root, those with its mark in their environment, all their children.

        Some rewrite their environment (for a title in `ps`), others have parents that are gone.
        """
        parents = dict(parents_of_all())
        found = {self.root.pid} | {pid for pid in parents if self._is_marked(pid)}
        while new := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= new
        return sorted(found & parents.keys())

    def cpu_s(self) -> float:
        """Seconds of processor that they have used, their finished children included."""
        return sum(cpu_s(pid) for pid in self.pids())

    def memory_mib(self) -> float:
        """What they hold; a page that several share counts once (PSS)."""
        return sum(pss_mib(pid) for pid in self.pids())

    def end(self) -> None:
        """Ask the root to end, wait, and kill what is left."""
        pids = self.pids()
        if self.root.poll() is None:
            self.root.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.root.wait(END_S)
        for pid in {*pids, *self.pids()} & {pid for pid, _ in parents_of_all()}:
            if pid == self.root.pid or self._is_ours_still(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.root.wait()

    def _is_marked(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            return self.mark.encode() in (PROC / str(pid) / "environ").read_bytes()
        return False
