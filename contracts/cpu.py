"""How many processors this process may really use, and of which kind."""

import math
import os
import platform
import sys
import threading
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MAX_THREADS = 1024  # that anybody may ask for


def cpu_budget(cgroup: Path = CGROUP) -> int:
    """Whole processors: the smaller of the affinity mask and the container's CPU quota, at least 1.

    `os.cpu_count()` and ONNX Runtime's defaults see the host's processors, whatever the limits.
    """
    return max(1, math.ceil(min(affinity(), cgroup_quota(cgroup))))


def shares(budget: int, workers: int) -> list[int]:
    """The processors of each worker: as equal as whole numbers allow, at least 1."""
    each, left = divmod(budget, workers)
    return [max(1, each + (place < left)) for place in range(workers)]


def affinity() -> int:
    """Processors that the scheduler may put this process on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_quota(cgroup: Path = CGROUP) -> float:
    """The container's CPU quota (cgroup version 2 or 1), in processors; infinity without one."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return math.inf
    try:
        limit = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):  # "max" means none
        return math.inf
    return limit if limit > 0 else math.inf


def processor() -> str:
    """The processor's model in words, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def stand_back(by: int = 5) -> None:
    """Let this process's other threads go first, on Linux, where each thread has its niceness."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + by)
