"""train_on_cluster(): each run as a task of Ray, which goes on from its checkpoint elsewhere.

The run directories lie on a file system that all nodes see: that is where a task that was lost with
its node is found again.
"""

import contextlib
import fcntl
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from snapensemble.contracts.cluster.connection import (
    ClusterFailed,
    Node,
    connected,
    described,
    import_ray,
)
from snapensemble.contracts.cluster.options import RayOptions
from snapensemble.contracts.errors import InvalidConfig, SnapensembleError, message_of
from snapensemble.contracts.options import build
from snapensemble.contracts.process import Stopped, say, signals_deferred
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.config_file import parsed, to_toml
from snapensemble.trainer.many.runs import OneRun
from snapensemble.trainer.recording.run_directory import LOCK_FILE

SAME = ("torch",)  # packages that weights depend on, too
RETRIES = 10  # of a task whose node or process is lost
LET_GO_S = 60.0  # until a lost process must have let go of its directory
LOOK_S = 0.5  # after which this process looks whether a signal has come
END_S = 30.0  # until tasks must have ended after a signal


def train_on_cluster(runs: Sequence[OneRun], options: RayOptions) -> dict[Path, str]:
    """Train runs beside each other; give what went wrong, by directory.

    Raises:
        InvalidConfig: there is no such cluster, or none of its nodes is large enough.
        ClusterFailed: the cluster is gone.
        Stopped: a signal came; the tasks have ended after a step, with a checkpoint.
    """
    assert options.ray is not None
    ray = import_ray()
    problems: dict[Path, str] = {}
    # Ray's core turns an exception of a signal's handler into an error of its own.
    with connected(options.ray, SAME) as nodes, signals_deferred() as deferred:
        remote = ray.remote(train_one)
        under_way: dict[Any, OneRun] = {}
        for run in runs:
            given = run.changes.get("threads") or (run.config and run.config.threads)
            cpus = options.ray_cpus or given or 1
            _refuse_too_much(nodes, cpus, options.ray_gpus or 0)
            task = remote.options(
                num_cpus=cpus, num_gpus=options.ray_gpus or 0, max_retries=RETRIES
            )
            under_way[task.remote(_absolute(run), given or cpus)] = run
        try:
            while under_way and not deferred.signum:
                finished, _ = ray.wait(list(under_way), num_returns=1, timeout=LOOK_S)
                for done in finished:
                    run = under_way.pop(done)
                    problem = _result(ray, done)
                    if problem is not None:
                        problems[run.out] = problem
                    state = "finished" if problem is None else "could not be trained"
                    say(f"{run.out} {state}, {len(runs) - len(under_way)} of {len(runs)}")
            if deferred.signum:
                _end(ray, list(under_way))
                say("what is finished stays; the same command goes on with the others")
        except ray.exceptions.RayError as error:
            raise ClusterFailed(
                f"the cluster has failed: {type(error).__name__}; look at it by `ray status`, and "
                "give the same command again"
            ) from error
    return problems


def train_one(run: OneRun, threads: int) -> str | None:
    """Train a run, in a process of a cluster; give what went wrong in words, None if nothing."""
    try:
        wait_until_free(run.out)
        run.train(threads)
    except SnapensembleError as error:
        return message_of(error)
    except Stopped as stopped:
        return str(stopped)
    return None


def wait_until_free(run_dir: Path, within_s: float = LET_GO_S) -> None:
    """Wait until no process trains in a directory: that of a lost node may end later than it.

    Raises:
        InvalidConfig: one still does.
    """
    with contextlib.suppress(FileNotFoundError), (run_dir / LOCK_FILE).open("a") as lock:
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() - began > within_s:
                    raise InvalidConfig(
                        f"another process has been training in {run_dir} for {within_s:.0f} s; "
                        "end it, and give the same command again"
                    ) from None
                time.sleep(0.2)
            else:
                return


def _result(ray: ModuleType, task: Any) -> str | None:
    """What a task says; what Ray says where its process is lost again and again."""
    try:
        problem: str | None = ray.get(task)
    except ray.exceptions.RayTaskError as error:  # an error of the program itself
        return str(error.cause or error).strip()
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
        return f"its process was lost {RETRIES + 1} times ({type(error).__name__})"
    except ray.exceptions.OutOfMemoryError as error:
        return f"its node has too little memory: {str(error).splitlines()[0]}"
    return problem


def _end(ray: ModuleType, tasks: Sequence[Any]) -> None:
    """Interrupt tasks as Ctrl-C does, and wait until they have written their checkpoints."""
    for task in tasks:
        ray.cancel(task)
    if tasks:
        ray.wait(list(tasks), num_returns=len(tasks), timeout=END_S)


def _refuse_too_much(nodes: Sequence[Node], cpus: int, gpus: float) -> None:
    if not any(node.cpus >= cpus and node.gpus >= gpus for node in nodes):
        raise InvalidConfig(
            f"no node of the cluster has {cpus} CPUs and {gpus:g} GPUs for one run "
            f"({described(nodes)}); give a smaller --ray-cpus, --threads or --ray-gpus"
        )


def _absolute(run: OneRun) -> OneRun:
    """A run whose paths mean the same from every directory."""
    config = run.config
    if config is not None:
        settings = parsed(to_toml(config), run.out)
        config = build(TrainConfig, {**settings, "out": run.out.absolute()})
    origin = None if run.origin is None else run.origin.absolute()
    return replace(run, out=run.out.absolute(), config=config, origin=origin)
