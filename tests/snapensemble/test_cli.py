import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from snapensemble.cli import COMMANDS, main
from snapensemble.contracts.run import read_run
from tests.factories import encoded, make_bundle, picture
from tests.forks import forked


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must end with exit code 2; give its message."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: snapensemble {command}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train", "--unknown", "1"], ["export"]])
def test_a_wrong_command_line_is_explained(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: snapensemble" in capsys.readouterr().err


def test_data_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = fails(capsys, "train", "--data", "/no/images", "--out", tmp_path / "run")
    assert message.startswith("snapensemble train: no data at '/no/images'; expected digits,")
    assert not (tmp_path / "run").exists()


def test_a_class_with_one_image(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name, count in (("a", 4), ("b", 1)):
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        for i in range(count):
            file = tmp_path / "data" / "train" / name / f"{i}.png"
            file.write_bytes(encoded(picture(i)))
    message = fails(capsys, "train", "--data", tmp_path / "data", "--out", tmp_path / "run")
    assert "class 'b' has 1 image; at least 2 are needed" in message


def test_a_budget_that_does_not_end_on_a_cycle(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    message = fails(
        capsys, "train", "--data", "digits", "--out", tmp_path / "run",
        "--epochs", 200, "--cycle-epochs", 10, "--t-mult", 2,
    )  # fmt: skip
    assert "200 epochs ends inside a cycle" in message and "150 or 310" in message


def test_more_members_than_the_run_has(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, digits_run: Path
) -> None:
    message = fails(capsys, "export", digits_run, "--out", tmp_path / "b", "--members", 4)
    assert "--members 4: the run has 3 snapshots; ask for at most 3" in message
    assert os.listdir(tmp_path) == []


def test_a_bundle_with_one_byte_changed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bundle_dir = make_bundle(tmp_path / "bundle")
    file = bundle_dir / "members" / "cycle-01.onnx"
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    for command in ("serve", "evaluate"):
        assert "cycle-01.onnx: sha256 is" in fails(capsys, command, bundle_dir)


def test_data_of_other_classes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, digits_bundle: Path
) -> None:
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "a.npz",
        x_train=rng.integers(0, 256, (8, 8, 8), dtype=np.uint8),
        y_train=np.arange(8) % 2,
        classes=["x", "y"],
    )
    spec = f"npz:{tmp_path / 'a.npz'}"
    message = fails(capsys, "evaluate", digits_bundle, "--data", spec)
    assert "the data has 2 classes, the snapshots 10, and they must be equal: the data " in message
    assert "lacks '0', '1', '2', '3', '4' and 5 more, and has besides 'x', 'y'" in message


def test_settings_come_from_a_file_and_flags_win(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.toml").write_text(
        'data = "digits"\ncycles = 3\ncycle_epochs = 1\nlr_max = 1\nflip = true\nthreads = 1\n'
    )
    out = tmp_path / "run"
    arguments = ["train", "--config", str(tmp_path / "c.toml"), "--out", str(out), "--cycles", "1"]
    assert main([*arguments, "--no-flip"]) == 0
    run = read_run(out)
    assert run.schedule.cycles == 1 and run.schedule.eta_max == 1.0
    assert not run.training.flip
    assert capsys.readouterr().out.splitlines()[-1] == str(out)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cylces = 3", "unknown setting 'cylces'"),
        (
            "cycles = 'three'",
            "c.toml: expected a whole number, from 1 to 10000, got 'three'",
        ),
        (
            "cycles = true",
            "c.toml: expected a whole number, from 1 to 10000, got True",
        ),
        ("flip = 1", "c.toml: expected true or false, got 1"),
        ("cycles = ", "c.toml"),
    ],
)
def test_a_wrong_settings_file_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "c.toml").write_text(text)
    flags = ("--data", "digits", "--out", tmp_path / "run")
    assert message in fails(capsys, "train", "--config", tmp_path / "c.toml", *flags)


def test_a_budget_flag_replaces_the_files_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.toml").write_text('cycles = 3\ncycle_epochs = 1\nschedule = "sgdr"\n')
    out = tmp_path / "run"
    flags = ["--data", "digits", "--out", str(out), "--epochs", "2", "--threads", "1"]
    assert main(["train", "--config", str(tmp_path / "c.toml"), *flags]) == 0
    assert read_run(out).schedule.cycles == 2


def test_evaluate_refuses_data_that_has_changed_since_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(10):
            data = encoded(picture(i + 50 * (name == "b"), width=8, height=8))
            (tmp_path / "photos" / name / f"{i}.png").write_bytes(data)
    photos, run_dir, bundle_dir = (str(tmp_path / n) for n in ("photos", "run", "bundle"))
    tiny = ["--cycles", "1", "--cycle-epochs", "1", "--batch-size", "4", "--image-size", "8"]
    assert main(["train", "--data", photos, "--out", run_dir, "--threads", "1", *tiny]) == 0
    assert main(["export", run_dir, "--out", bundle_dir]) == 0
    assert main(["evaluate", bundle_dir]) == 0
    (tmp_path / "photos").rename(tmp_path / "moved")
    capsys.readouterr()
    assert "if it has moved, give --data" in fails(capsys, "evaluate", bundle_dir)
    assert main(["evaluate", bundle_dir, "--data", str(tmp_path / "moved")]) == 0
    (tmp_path / "moved" / "a" / "new.png").write_bytes(encoded(picture(99)))
    capsys.readouterr()
    message = fails(capsys, "evaluate", bundle_dir, "--data", tmp_path / "moved")
    assert "would hold images that taught" in message


def test_a_folder_called_as_a_data_set_does_not_change_its_meaning(
    tmp_path: Path, digits_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", str(digits_bundle), "--limit", "5"]) == 0


def test_variables_of_the_server_do_not_disturb_evaluate(
    digits_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNAPENSEMBLE_PORT", "tcp://10.0.0.1:80")  # as Kubernetes sets it
    assert main(["evaluate", str(digits_bundle), "--limit", "5"]) == 0


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_keeps_its_finished_cycles(
    tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    out = tmp_path / "run"
    command = [
        "train", "--data", "digits", "--out", str(out),
        "--cycles", "500", "--cycle-epochs", "1", "--threads", "1",
    ]  # fmt: skip
    with forked(lambda: main(command)) as process:
        for line in process.stderr:
            if line.startswith("cycle 2  snapshot"):
                process.send_signal(signum)
                break
        _, rest = process.communicate()
    assert process.returncode == code
    assert "Traceback" not in rest
    finished = len(read_run(out).snapshots)
    assert 3 <= finished < 500
    assert rest.endswith(
        f"stopped by {signum.name}: {finished} of 500 cycles are finished and whole; "
        f"snapensemble export {out} takes them; snapensemble train --resume {out} goes on\n"
    )


def test_a_reader_that_leaves_is_no_traceback(digits_bundle: Path) -> None:
    command = f"{sys.executable} -m snapensemble.cli evaluate {digits_bundle} --json | true"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert found.stderr == ""


def test_a_package_that_is_not_installed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    message = fails(capsys, "train", "--data", "digits", "--out", tmp_path / "run")
    assert "'sklearn.datasets' is not installed" in message and "snapensemble[train]" in message
