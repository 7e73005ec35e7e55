"""What a tracking tool is told, and that nothing of it ever ends or slows a run."""

import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from snapensemble.cli import main
from snapensemble.contracts.manifest import ValFigures
from snapensemble.contracts.run import read_run
from snapensemble.trainer.loop import Step
from snapensemble.trainer.recording import tracking
from snapensemble.trainer.recording.tracking import Tool, Tracked, Tracking, tracked_run
from snapensemble.trainer.run import resume, train
from tests.forks import finished
from tests.trainer.interruptions import short

VAL = ValFigures(nll=0.5, accuracy=0.75)
SECRET = "a-very-secret-token"


class Told:
    """A tracked run that notes what it is told."""

    def __init__(self, known: str | None = None) -> None:
        self.id = known or "fresh"
        self.settings: dict[str, Any] = {}
        self.points: list[tuple[int, dict[str, float]]] = []
        self.files: list[tuple[str, str]] = []
        self.ended: list[bool] = []

    def begin(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)

    def metrics(self, points: list[tuple[int, float, dict[str, float]]]) -> None:
        assert all(1e9 < seconds < 1e10 for _, seconds, _ in points)
        self.points += [(step, values) for step, _, values in points]

    def file(self, path: Path, folder: str) -> None:
        self.files.append((path.name, folder))

    def end(self, *, failed: bool) -> None:
        self.ended.append(failed)


class Connections:
    """Opens tracked runs, and keeps them."""

    def __init__(self) -> None:
        self.opened: list[Told] = []

    def __call__(self, tool: Tool, run_dir: Path, known: str | None) -> Tracked:
        self.opened.append(Told(known))
        return self.opened[-1]


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Connections:
    found = Connections()
    monkeypatch.setattr(tracking, "connected", found)
    return found


def test_a_run_tells_its_settings_curves_and_snapshots(
    tmp_path: Path, connections: Connections
) -> None:
    run_dir = train(short(tmp_path / "run", track="mlflow"))
    (told,) = connections.opened
    assert told.settings["cycles"] == 2 and told.settings["data"] == "digits"
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    losses = {step: values["train/loss"] for step, values in told.points if "train/loss" in values}
    assert losses == {line["step"]: line["loss"] for line in lines if "loss" in line}
    validations = [values for _, values in told.points if "val/nll" in values]
    assert [v["val/nll"] for v in validations] == [
        each["val_nll"] for each in lines if "val_nll" in each
    ]
    assert all(values["images_per_second"] > 0 for values in validations)
    names = [(Path(each.file).name, "snapshots") for each in read_run(run_dir).snapshots]
    assert told.files == names and len(names) == 2
    assert told.ended == [False]
    assert tracked_run(run_dir) == {"tool": "mlflow", "id": "fresh"}


def test_a_resumed_run_goes_on_in_the_same_tracked_run(
    tmp_path: Path, connections: Connections, signal_handlers: None
) -> None:
    from snapensemble.contracts.process import Stopped, raise_on_signals

    raise_on_signals()
    real = Tracking.step

    def step(self: Tracking, step: Step, epoch: int, cycle: int) -> None:
        real(self, step, epoch, cycle)
        if step.step == 20:
            os.kill(os.getpid(), signal.SIGINT)

    with mock.patch.object(Tracking, "step", step), pytest.raises(Stopped):
        train(short(tmp_path / "run", track="mlflow"))
    resume(tmp_path / "run")
    first, second = connections.opened
    assert first.ended == [False] and second.id == first.id and second.settings == {}
    steps = [step for step, values in first.points + second.points if "train/loss" in values]
    assert steps == list(range(48))


def test_a_run_that_fails_is_marked_so(tmp_path: Path, connections: Connections) -> None:
    with pytest.raises(ZeroDivisionError), Tracking("mlflow", tmp_path):
        raise ZeroDivisionError
    assert connections.opened[0].ended == [True]


@pytest.mark.parametrize("where", ["connect", "begin", "metrics", "file", "end"])
def test_whatever_a_tool_raises_is_said_once_and_training_goes_on(
    where: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise ConnectionError("no server at all\nand much more")

    class Failing(Told):
        pass

    if where != "connect":
        setattr(Failing, where, fail)

    def connect(tool: Tool, run_dir: Path, known: str | None) -> Tracked:
        return fail() if where == "connect" else Failing(known)

    monkeypatch.setattr(tracking, "connected", connect)
    run_dir = train(short(tmp_path / "run", track="wandb"))
    assert len(read_run(run_dir).snapshots) == 2
    said = capsys.readouterr().err
    assert said.count("--track wandb: no server at all; training goes on") == 1
    assert said.count("no server") == 1 and "much more" not in said


def test_a_full_disk_of_the_tracker_does_not_end_the_run(
    tmp_path: Path,
    connections: Connections,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(path: Path, data: bytes) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tracking, "write_atomically", full)
    assert read_run(train(short(tmp_path / "run", track="mlflow"))).complete
    assert "No space left on device; training goes on" in capsys.readouterr().err


def test_a_tool_that_hangs_keeps_nobody_waiting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    monkeypatch.setattr(tracking, "MOST_WAITING", 3)

    def connect(tool: Tool, run_dir: Path, known: str | None) -> Tracked:
        answered.wait()
        return Told()

    board = Tracking("mlflow", tmp_path, connect=connect, patience_s=0.01)
    with board:
        for step in range(10 * tracking.PORTION):
            board.step(Step(step, 0.1, 1.0), 0, 0)
        board.epoch(Step(9, 0.1, 1.0), 0, 0, VAL, 1.0)
    said = capsys.readouterr().err
    assert "it takes values more slowly than they come" in said and said.count("--track") == 1
    answered.set()


def test_a_package_that_is_not_there_is_said_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    arguments = ["train", "--data", "/no/images", "--out", str(tmp_path / "run")]
    assert main([*arguments, "--track", "mlflow"]) == 2
    said = capsys.readouterr().err
    assert (
        "--track mlflow: the package 'mlflow' is not installed; install snapensemble[mlflow]"
        in (said)
    )


def test_an_export_is_added_to_the_run_that_it_was_made_from(
    tmp_path: Path, connections: Connections, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = train(short(tmp_path / "run", track="mlflow"))
    flags = ["--select", "last", "--members", "1", "--no-report"]
    bundle = str(tmp_path / "bundle")
    assert main(["export", str(run_dir), "--out", bundle, *flags, "--track"]) == 0
    told = connections.opened[-1]
    assert told.id == "fresh" and told.ended == [False]
    assert ("ensemble.json", "bundle") in told.files
    assert [folder for name, folder in told.files if name.endswith(".onnx")] == ["bundle/members"]
    assert set(told.points[-1][1]) == {"bundle/nll", "bundle/accuracy"}


def test_an_export_of_a_run_that_was_not_tracked_says_so_first(
    tmp_path: Path, digits_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(digits_run), "--out", str(tmp_path / "b"), "--track"]) == 2
    assert "was not tracked; train with --track mlflow or wandb" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


@pytest.fixture
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Tools that keep all they are told in a folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    level = logging.root.level
    yield
    logging.root.setLevel(level)


def trained(out: Path, tool: str, end: Callable[[], None] = lambda: None) -> int:
    """Train in a process of its own, which the tools keep their threads and hooks in."""

    def work() -> int:
        warnings.simplefilter("ignore")  # of the tools' own code
        if (out / "run.json").exists():
            resume(out)
        else:
            train(short(out, track=tool))
        end()
        return 0

    done = finished(work)
    assert "--track" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
    return done.returncode


def files_that_hold(root: Path, text: str) -> list[Path]:
    return [f for f in root.rglob("*") if f.is_file() and text.encode() in f.read_bytes()]


@pytest.mark.usefixtures("_offline")
def test_mlflow_keeps_it_in_files_that_its_client_reads_back(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed: its own files are not tested")
    run_dir = tmp_path / "run"
    trained(run_dir, "mlflow")
    found = tracked_run(run_dir)
    assert found is not None and found["tool"] == "mlflow"
    read = finished(lambda: mlflow_run(tmp_path, found["id"]))
    assert read.returncode == 0, read.stderr
    kept = json.loads(read.stdout.splitlines()[-1])
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert kept["status"] == "FINISHED" and kept["params"]["cycles"] == "2"
    assert kept["losses"] == [[each["step"], each["loss"]] for each in lines if "loss" in each]
    assert kept["files"] == [each.file for each in read_run(run_dir).snapshots]
    assert files_that_hold(tmp_path, SECRET) == []


def mlflow_run(root: Path, run_id: str) -> int:
    """Write what MLflow's client says of a run."""
    warnings.simplefilter("ignore")
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    import mlflow

    client = mlflow.MlflowClient(str(root / "mlruns"))
    run = client.get_run(run_id)
    found = {
        "status": run.info.status,
        "params": run.data.params,
        "losses": [[m.step, m.value] for m in client.get_metric_history(run_id, "train/loss")],
        "files": [each.path for each in client.list_artifacts(run_id, "snapshots")],
    }
    sys.stdout.write(f"{json.dumps(found)}\n")
    return 0


@pytest.mark.usefixtures("_offline")
def test_wandb_keeps_it_in_files_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: its own files are not tested")
    run_dir = tmp_path / "run"
    trained(run_dir, "wandb")
    found = tracked_run(run_dir)
    assert found is not None and found["tool"] == "wandb"
    (log,) = run_dir.glob(f"wandb/offline-run-*-{found['id']}/run-{found['id']}.wandb")
    data = log.read_bytes()
    for text in (b"train/loss", b"val/nll", b"images_per_second", b"cycle_epochs"):
        assert text in data
    for snapshot in read_run(run_dir).snapshots:
        assert Path(snapshot.file).stem.encode() in data
    assert files_that_hold(run_dir, SECRET) == []


def test_no_secret_reaches_the_settings_of_a_run(tmp_path: Path, connections: Connections) -> None:
    with mock.patch.dict(os.environ, WANDB_API_KEY=SECRET, MLFLOW_TRACKING_PASSWORD=SECRET):
        run_dir = train(short(tmp_path / "run", track="wandb"))
    assert files_that_hold(run_dir, SECRET) == []
    assert 'track = "wandb"' in (run_dir / "config.toml").read_text()
