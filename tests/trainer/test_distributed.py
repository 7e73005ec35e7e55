import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
import torch.distributed as dist

from snapensemble.contracts.run import RunManifest, read_run
from snapensemble.trainer import budget
from tests.forks import Fork, forked
from tests.trainer import torchrun_jobs as jobs

JOBS = str(Path(__file__).with_name("torchrun_jobs.py"))
FLAGS = (
    "--data digits --cycles 2 --cycle-epochs 2 --batch-size 64 --flip --crop-padding 1 "
    "--threads 1 --checkpoint-minutes 0 --trivial-augment --color-jitter 0.4 "
    "--random-erasing 0.2 --mixup 0.4 --cutmix 1 --class-balance inverse"
)


def torchrun(*command: str, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "--max-restarts", str(restarts)),
            *command,
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@contextlib.contextmanager
def forked_by_torchrun(
    job: Callable[[], int], *flags: str, processes: int = 2
) -> Iterator[list[Fork]]:
    """Processes as torchrun starts them, without the seconds that each needs to import torch."""
    for late in ("sklearn.datasets", "torch._dynamo"):  # imported where training needs them
        import_module(late)
    store = dist.TCPStore(  # type: ignore[attr-defined]  # torch does not say that it exports it
        "127.0.0.1", 0, is_master=True, wait_for_workers=False
    )

    def work(rank: int) -> int:
        sys.argv[1:] = flags
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
            "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        }  # fmt: skip
        return job()

    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(forked(partial(work, rank))) for rank in range(processes)]


def all_end_well(job: Callable[[], int], *flags: str, processes: int = 2) -> None:
    with forked_by_torchrun(job, *flags, processes=processes) as forks:
        said = [fork.communicate()[1] for fork in forks]
        assert [fork.returncode for fork in forks] == [0] * processes, said


def trained(out: Path, model: str, *, processes: int) -> Path:
    all_end_well(
        jobs.training, *FLAGS.split(), "--model", model, "--out", str(out), processes=processes
    )
    return out


def losses(run_dir: Path) -> list[float]:
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def weights(run_dir: Path, run: RunManifest, cycle: int) -> dict[str, np.ndarray]:
    content = (run_dir / run.snapshots[cycle].file).read_bytes()
    return safetensors.numpy.load(content)


def test_two_processes_average_share_and_gather() -> None:
    all_end_well(jobs.arithmetic)


def test_the_others_find_what_the_leader_has_made(tmp_path: Path) -> None:
    all_end_well(jobs.leader_first, str(tmp_path / "file"))


def test_the_others_hear_why_the_leader_has_failed() -> None:
    all_end_well(jobs.leader_fails)


def test_what_frees_a_group_never_waits_for_a_thread_that_waits_for_it() -> None:
    all_end_well(jobs.group_is_kept)


def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path: Path) -> None:
    flags = [*FLAGS.replace("minutes 0", "minutes 60").split(), "--model", "tiny"]
    flags += ["--out", str(tmp_path / "run")]
    with forked_by_torchrun(jobs.training_with_a_signal_to_one, *flags) as (leader, other):
        assert "stopped by SIGTERM: 0 of 2 cycles are finished and whole; " in leader.stderr.read()
        assert (leader.wait(), other.wait()) == (128 + signal.SIGTERM,) * 2
    assert torch.load(tmp_path / "run" / "checkpoint.pt")["step"] == 10


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    one = trained(tmp_path / "one", "bare", processes=1)
    two = trained(tmp_path / "two", "bare", processes=2)
    runs = read_run(one), read_run(two)
    assert (runs[0].training.processes, runs[1].training.processes) == (1, 2)
    assert runs[1].training.batch_size == 64  # the global batch is what was asked for
    # Rounding only: the same images in the same batches, augmented and mixed alike.
    np.testing.assert_allclose(losses(one), losses(two), rtol=1e-4)
    for cycle in range(2):
        alone, shared = weights(one, runs[0], cycle), weights(two, runs[1], cycle)
        for name, values in alone.items():
            np.testing.assert_allclose(values, shared[name], rtol=1e-3, atol=1e-4)
        logits = [
            np.load(d / r.snapshots[cycle].val_logits.file)
            for d, r in zip((one, two), runs, strict=True)
        ]
        np.testing.assert_allclose(logits[0], logits[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("most", "ends"), [(1e9, (12, 24, 36, 48, 60, 72)), (0.0, (72,))], ids=["fitted", "not fitted"]
)
def test_two_processes_decide_alike_about_restarts(
    most: float, ends: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"MIN_EPOCHS": 1, "MIN_UPDATES": 1, "FITTED": most}.items():
        monkeypatch.setattr(budget, name, value)
    flags = "--data digits --model tiny --epochs 6 --batch-size 64 --device cpu --out"
    all_end_well(jobs.training, *flags.split(), str(tmp_path / "run"))
    assert read_run(tmp_path / "run").schedule.cycle_ends == ends


def test_every_process_begins_the_cycles_of_a_star_with_what_the_leader_has_written(
    tmp_path: Path,
) -> None:
    flags = f"{FLAGS} --model bare --restart-from first --out".split()
    all_end_well(jobs.training, *flags, str(tmp_path / "run"))
    assert read_run(tmp_path / "run").complete


@pytest.mark.slow
def test_a_dead_process_is_started_again_and_the_run_goes_on_from_its_checkpoint(
    tmp_path: Path,
) -> None:
    whole = trained(tmp_path / "whole", "tiny", processes=2)
    died = tmp_path / "died"
    flags = [*FLAGS.split(), "--model", "tiny", "--out", str(died)]
    done = torchrun(JOBS, "death", *flags, restarts=1)
    assert done.returncode == 0, done.stderr
    assert losses(died) == losses(whole)
    run = read_run(died)
    assert run.complete
    before, after = weights(whole, read_run(whole), 1), weights(died, run, 1)
    for name, values in before.items():
        if "running" in name:  # each process continues with the leader's statistics
            np.testing.assert_allclose(values, after[name], rtol=0.2, atol=0.05)
        else:
            np.testing.assert_array_equal(values, after[name])


def test_without_restarts_a_dead_process_ends_the_job_with_a_message(tmp_path: Path) -> None:
    flags = [*FLAGS.split(), "--model", "tiny", "--out", str(tmp_path / "run")]
    done = torchrun(JOBS, "death", *flags)
    assert done.returncode != 0
    assert f"--resume {tmp_path / 'run'} goes on" in done.stderr
    all_end_well(jobs.training, "--resume", str(tmp_path / "run"))
    assert read_run(tmp_path / "run").complete


def test_two_processes_add_cycles_once(tmp_path: Path) -> None:
    run_dir = trained(tmp_path / "run", "bare", processes=2)
    before = losses(run_dir)
    all_end_well(jobs.training, "--resume", str(run_dir), "--more-cycles", "1")
    run = read_run(run_dir)
    assert (run.schedule.cycles, len(run.snapshots), run.extended_after) == (3, 3, (2,))
    assert len(losses(run_dir)) == 3 * len(before) // 2 and losses(run_dir)[: len(before)] == before


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    flags = FLAGS.replace("--batch-size 64", "--batch-size 65").split()
    flags += ["--out", str(tmp_path / "run")]
    with forked_by_torchrun(jobs.training, *flags) as forks:
        for fork in forks:
            said = fork.communicate()[1]
            assert "a batch of 65 cannot be shared equally by 2 processes" in said
            assert fork.returncode == 2
    assert not (tmp_path / "run").exists()


def test_the_module_has_the_flags_of_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "snapensemble.trainer", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--resume RUN_DIR" in done.stdout and "--cycle-epochs" in done.stdout
