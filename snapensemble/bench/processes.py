"""Processor time and memory of a process and its children, from /proc; None where it is absent."""

import contextlib
import os
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")  # per second


def family(pid: int) -> list[int]:
    """A process and all that it has started, directly or not, and that still run."""
    found = [pid]
    for parent in found:  # the list grows meanwhile
        # A process may end at any moment: what cannot be read any more has no children.
        with contextlib.suppress(OSError):
            for task in sorted((PROC / str(parent) / "task").iterdir()):
                with contextlib.suppress(OSError):
                    found += map(int, (task / "children").read_text().split())
    return found


def cpu_seconds(pid: int) -> float | None:
    """Processor time of a process and its children, those that have ended included."""
    found = [own_cpu_seconds(each) for each in family(pid)]  # that of `pid` comes first
    return None if found[0] is None else sum(seconds or 0.0 for seconds in found)


def own_cpu_seconds(pid: int) -> float | None:
    """User and system time of a process and of those of its children that it has waited for."""
    # Fields 14 to 17 in proc(5), counted from 1 and from the first field.
    ticks = stat(pid)[11:15]
    return sum(map(int, ticks)) / TICKS if ticks else None


def stat(pid: int) -> list[str]:
    """What /proc/PID/stat says after the program's name; empty if there is no such process."""
    try:
        # The name may hold anything but ends with ")".
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def resident_bytes(pid: int) -> int | None:
    """Memory that is in use now, children included; pages that they share count for each."""
    return _memory(family(pid), "VmRSS")


def peak_resident_bytes(pid: int, *, children: bool = True) -> int | None:
    """The largest `resident_bytes` of each process since it started, summed."""
    return _memory(family(pid) if children else [pid], "VmHWM")


def _memory(pids: list[int], name: str) -> int | None:
    total = 0
    for pid in pids:
        try:
            lines = (PROC / str(pid) / "status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
    return total * 1024 or None  # the kernel says kB and means KiB
