import math
import os
from pathlib import Path

import pytest

from snapensemble.contracts.cpu import affinity, cgroup_quota, cpu_budget, shares


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        file = root / name.replace("__", "/").replace("DOT", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("content", "quota"),
    [("150000 100000\n", 1.5), ("max 100000\n", math.inf), ("50000 100000", 0.5), ("?", math.inf)],
)
def test_the_quota_of_cgroup_version_2(tmp_path: Path, content: str, quota: float) -> None:
    assert cgroup_quota(write(tmp_path, cpuDOTmax=content)) == quota


@pytest.mark.parametrize(("value", "quota"), [("200000", 2.0), ("-1", math.inf)])
def test_the_quota_of_cgroup_version_1(tmp_path: Path, value: str, quota: float) -> None:
    write(tmp_path, cpu__cpuDOTcfs_quota_us=value, cpu__cpuDOTcfs_period_us="100000")
    assert cgroup_quota(tmp_path) == quota


def test_without_a_cgroup_the_affinity_decides(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path) == math.inf
    assert cpu_budget(tmp_path) == affinity() >= 1


def test_a_part_of_a_processor_counts_as_one(tmp_path: Path) -> None:
    assert cpu_budget(write(tmp_path, cpuDOTmax="10000 100000")) == 1


@pytest.mark.parametrize(
    ("budget", "workers", "expected"),
    [(8, 4, [2, 2, 2, 2]), (5, 2, [3, 2]), (2, 3, [1, 1, 1]), (1, 1, [1])],
)
def test_workers_share_the_processors(budget: int, workers: int, expected: list[int]) -> None:
    assert shares(budget, workers) == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_the_affinity_mask_counts() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert affinity() == 1
    finally:
        os.sched_setaffinity(0, before)
