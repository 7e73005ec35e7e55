"""`--track`: what happens in a run, told to MLflow or to Weights & Biases.

A thread of its own does all of it, so that a server that is slow or gone costs training nothing;
what goes wrong is said once. Where the values go, and with which secrets, is the business of the
tools' own variables (MLFLOW_TRACKING_URI, WANDB_API_KEY, ...); nothing of it is kept in the run.
"""

import contextlib
import importlib.util
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.files import write_atomically
from snapensemble.contracts.manifest import ValFigures
from snapensemble.contracts.process import Stopped, say
from snapensemble.contracts.run import read_run
from snapensemble.trainer.loop import Step
from snapensemble.trainer.schedule import Cycle

Tool = Literal["mlflow", "wandb"]
TRACKING_FILE = "tracking.json"  # which tracked run a run directory belongs to
PROJECT = "snapensemble"
MOST_WAITING = 4096  # portions; more are dropped
PORTION = 100  # steps
PATIENCE_S = 30.0  # at the end, for what was not told yet


class Tracked(Protocol):
    """An open run of a tracking tool; methods may raise anything."""

    id: str

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Keep the settings of a run that has just been made."""

    def metrics(self, points: list[tuple[int, float, dict[str, float]]]) -> None:
        """Keep values, each with its step and the time in seconds since 1970."""

    def file(self, path: Path, folder: str) -> None:
        """Keep a copy of a file."""

    def end(self, *, failed: bool) -> None:
        """Close the run, which may be gone on with later."""


class Tracking:
    """An observer that tells a tracking tool of a run. Use as a context manager.

    Args:
        tool: which one.
        run_dir: of the run; it keeps which tracked run it belongs to, and nothing secret.
        settings: what a new tracked run begins with; None: go on with the one that is there.
        batch_size: images per step, for images_per_second.
        connect: opens a tracked run, new or with the id given.
        patience_s: how long the end waits for what was not told yet.
    """

    def __init__(
        self,
        tool: Tool,
        run_dir: Path,
        *,
        settings: Mapping[str, Any] | None = None,
        batch_size: int = 0,
        connect: Callable[[Tool, Path, str | None], Tracked] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._tool = tool
        self._run_dir = run_dir
        self._settings = settings
        self._batch_size = batch_size
        self._connect = connect or connected
        self._patience_s = patience_s
        self._points: list[tuple[int, float, dict[str, float]]] = []
        self._steps = 0  # of this epoch, in this process
        self._has_failed = False
        self._waiting: queue.Queue[Callable[[Tracked], None] | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._tell_all, name="tracking", daemon=True)

    def __enter__(self) -> "Tracking":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.flush()
        failed = kind is not None and not issubclass(kind, Stopped)
        self._tell(lambda tracked: tracked.end(failed=failed))
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=self._patience_s)
        self._thread.join(self._patience_s)
        if self._thread.is_alive():
            self._say(f"the last values were not told within {self._patience_s:.0f} s")

    def step(self, step: Step, epoch: int, cycle: int) -> None:
        """Tell loss and learning rate of an optimizer update."""
        self._add(step.step, {"train/loss": step.loss, "train/learning_rate": step.learning_rate})
        self._steps += 1
        if len(self._points) >= PORTION:
            self.flush()

    def epoch(self, step: Step, epoch: int, cycle: int, val: ValFigures, seconds: float) -> None:
        """Tell the validation figures at the epoch's last step, and how fast it was."""
        values = {"val/nll": val.nll, "val/accuracy": val.accuracy}
        if val.macro_accuracy is not None:
            values["val/macro_accuracy"] = val.macro_accuracy
        if self._steps and seconds:
            values["images_per_second"] = self._steps * self._batch_size / seconds
        self._steps = 0
        self._add(step.step, values)
        self.flush()

    def snapshot(self, cycle: Cycle) -> None:
        """Hand over the weights at a cycle's end."""
        snapshot = next(
            each for each in read_run(self._run_dir).snapshots if each.cycle == cycle.index
        )
        self.file(self._run_dir / snapshot.file, "snapshots")

    def flush(self) -> None:
        """Hand over the values so far."""
        if points := self._points:
            self._points = []
            self._tell(lambda tracked: tracked.metrics(points))

    def file(self, path: Path, folder: str) -> None:
        """Hand over a file, which must stay as it is."""
        self._tell(lambda tracked: tracked.file(path, folder))

    def figures(self, values: Mapping[str, float]) -> None:
        """Tell figures that belong to no step."""
        self._add(0, dict(values))

    def _add(self, step: int, values: dict[str, float]) -> None:
        self._points.append((step, time.time(), values))

    def _tell(self, what: Callable[[Tracked], None]) -> None:
        try:
            self._waiting.put_nowait(what)
        except queue.Full:
            self._say("it takes values more slowly than they come; some are left out")

    def _tell_all(self) -> None:
        tracked = None
        try:
            tracked = self._opened()
        except Exception as error:  # whatever a tool or its server raises, training goes on
            self._say(_reason(error))
        while (what := self._waiting.get()) is not None:
            if tracked is None:
                continue
            try:
                what(tracked)
            except Exception as error:
                self._say(_reason(error))

    def _opened(self) -> Tracked:
        found = tracked_run(self._run_dir)
        is_same = found is not None and found["tool"] == self._tool
        tracked = self._connect(
            self._tool, self._run_dir, found["id"] if found and is_same else None
        )
        if not is_same:
            content = json.dumps({"tool": self._tool, "id": tracked.id}) + "\n"
            write_atomically(self._run_dir / TRACKING_FILE, content.encode())
            tracked.begin(self._settings or {})
        return tracked

    def _say(self, text: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            say(f"--track {self._tool}: {text}; training goes on, without more messages about it")


def refuse_absent_tool(tool: Tool | None) -> None:
    """Raise InvalidConfig if the package of a tracking tool is not installed."""
    if tool is not None and importlib.util.find_spec(tool) is None:
        raise InvalidConfig(
            f"--track {tool}: the package {tool!r} is not installed; install snapensemble[{tool}]"
        )


def tracked_run(run_dir: Path) -> dict[str, str] | None:
    """The tool and the id of the tracked run that a run directory belongs to, if to any."""
    try:
        found = json.loads((run_dir / TRACKING_FILE).read_text(encoding="utf-8"))
        return {name: str(found[name]) for name in ("tool", "id")}
    except (OSError, ValueError, LookupError, TypeError):
        return None


def track_bundle(run_dir: Path, bundle_dir: Path, figures: Mapping[str, float]) -> None:
    """Add a bundle's files and figures to the tracked run of what it was made from.

    Raises:
        InvalidConfig: the run was not tracked, or its tool is not installed.
    """
    tool = tool_of(run_dir)
    with Tracking(tool, run_dir, patience_s=20 * PATIENCE_S) as tracking:
        for path in _files_below(bundle_dir):
            folder = path.parent.relative_to(bundle_dir)
            tracking.file(path, str(Path("bundle") / folder))
        tracking.figures(figures)


def tool_of(run_dir: Path) -> Tool:
    """The tool that tracks a run.

    Raises:
        InvalidConfig: none does, or it is not installed.
    """
    found = tracked_run(run_dir)
    for tool in ("mlflow", "wandb"):
        if found is not None and found["tool"] == tool:
            refuse_absent_tool(tool)
            return tool
    raise InvalidConfig(f"--track: {run_dir} was not tracked; train with --track mlflow or wandb")


def connected(tool: Tool, run_dir: Path, known: str | None) -> Tracked:
    """Open a tracked run, new or known by its id."""
    return MlflowRun(run_dir, known) if tool == "mlflow" else WandbRun(run_dir, known)


class MlflowRun:
    """A run of MLflow, through its client, which keeps no state of its own.

    Without MLFLOW_TRACKING_URI it is kept where MLflow keeps runs; its small package, which has no
    database, keeps them in files below ./mlruns.
    """

    def __init__(self, run_dir: Path, known: str | None) -> None:
        if not (os.environ.get("MLFLOW_TRACKING_URI") or importlib.util.find_spec("sqlalchemy")):
            os.environ["MLFLOW_TRACKING_URI"] = "./mlruns"
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        mlflow: Any = importlib.import_module("mlflow")
        self._entities: Any = importlib.import_module("mlflow.entities")
        self._client = mlflow.MlflowClient()
        if known is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            experiment = self._client.get_experiment_by_name(name)
            number = (
                experiment.experiment_id if experiment else self._client.create_experiment(name)
            )
            self.id = str(self._client.create_run(number, run_name=run_dir.name).info.run_id)
        else:
            self.id = known
            self._client.update_run(known, status="RUNNING")

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Keep the settings as parameters."""
        params = [self._entities.Param(name, str(value)) for name, value in settings.items()]
        self._client.log_batch(self.id, params=params)

    def metrics(self, points: list[tuple[int, float, dict[str, float]]]) -> None:
        """Keep values; at most 1,000 go in one request."""
        values = [
            self._entities.Metric(name, value, int(seconds * 1000), step)
            for step, seconds, found in points
            for name, value in found.items()
        ]
        for start in range(0, len(values), 1000):
            self._client.log_batch(self.id, metrics=values[start : start + 1000])

    def file(self, path: Path, folder: str) -> None:
        """Keep a copy of a file as an artifact."""
        self._client.log_artifact(self.id, str(path), folder)

    def end(self, *, failed: bool) -> None:
        """Mark the run as finished or failed."""
        self._client.set_terminated(self.id, "FAILED" if failed else "FINISHED")


class WandbRun:
    """A run of Weights & Biases; with WANDB_MODE=offline it is kept in RUN_DIR/wandb.

    Raises:
        InvalidConfig: there is no key, which the tool would ask for at the terminal.
    """

    def __init__(self, run_dir: Path, known: str | None) -> None:
        self._wandb: Any = importlib.import_module("wandb")
        if self._wandb.setup().settings.mode == "online" and not self._wandb.login(prompt=False):
            raise InvalidConfig(
                "there is no key: run `wandb login`, set WANDB_API_KEY, or WANDB_MODE=offline"
            )
        # The tool's own monitor of the machine would be one more process beside the training.
        settings = self._wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            save_code=False,
            x_disable_stats=True,
            finish_timeout=PATIENCE_S,
        )
        self.id = known or os.urandom(4).hex()
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self.id,
            name=run_dir.name,
            resume="allow",
            dir=str(run_dir),
            settings=settings,
        )
        # A resumed run repeats some steps, which the tool's own counter would refuse.
        self._run.define_metric("*", step_metric="step")

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Keep the settings as the run's config."""
        self._run.config.update(dict(settings))

    def metrics(self, points: list[tuple[int, float, dict[str, float]]]) -> None:
        """Keep values, each beside its step."""
        for step, seconds, found in points:
            self._run.log({"step": step, "time": seconds, **found})

    def file(self, path: Path, folder: str) -> None:
        """Keep a copy of a file."""
        self._run.log_artifact(str(path), name=f"{self.id}-{path.stem}", type=folder.split("/")[0])

    def end(self, *, failed: bool) -> None:
        """Finish the run, and have the tool's own process end."""
        self._run.finish(exit_code=int(failed))


def _files_below(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file())


def _reason(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text[:300]
