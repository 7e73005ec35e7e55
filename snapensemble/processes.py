"""What a process and its children have used, from /proc; None where there is no such thing."""

import os
from pathlib import Path

PROC = Path("/proc")


def family(pid: int) -> list[int]:
    """A process and all that it started, directly or not, and that still runs."""
    found = [pid]
    for parent in found:  # grows while it is read
        for task in sorted((PROC / str(parent) / "task").glob("*")):
            try:
                found += map(int, (task / "children").read_text().split())
            except OSError:  # it has ended meanwhile
                continue
    return found


def cpu_seconds(pid: int) -> float | None:
    """Processor time of a process and its children, those that have ended included."""
    ticks = 0
    for each in family(pid):
        try:
            # The second field is the program's name, which may hold anything but ends with ")".
            fields = (PROC / str(each) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            if each == pid:
                return None
            continue
        # utime and stime, of this process and of the children that it has waited for: 14 to 17 in
        # proc(5), counted from 1 and from the first field.
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


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
