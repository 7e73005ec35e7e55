import io
import json
from pathlib import Path

import pytest

from snapensemble.contracts.manifest import FileRef, ValFigures
from snapensemble.contracts.run import Branch, read_run
from snapensemble.trainer.loop import Step
from snapensemble.trainer.recording.observers import MetricsFile, Progress, bytes_before

STEP, EPOCH = '{"step": %d, "loss": 1.0}\n', '{"step": %d, "epoch": %d, "val_nll": 1.0}\n'
VAL = ValFigures(nll=0.5, accuracy=0.75, macro_accuracy=0.625)


def kept(first_step: int, first_epoch: int, text: str) -> str:
    file = io.BytesIO(text.encode())
    return text[: bytes_before(first_step, first_epoch, file)]


def test_what_will_be_done_again_is_taken_out_of_the_metrics() -> None:
    text = STEP % 0 + STEP % 1 + EPOCH % (1, 0) + STEP % 2 + STEP % 3 + EPOCH % (3, 1)
    assert kept(3, 1, text) == text[: text.index(STEP % 3)]
    # the epoch's steps are done, its validation is not
    assert kept(4, 1, text) == text[: text.index(EPOCH % (3, 1))]
    assert kept(4, 2, text) == text
    assert kept(0, 0, text) == ""


@pytest.mark.parametrize("torn", ['{"step": 1, "lo', '{"step": 1}', "null\n", "\x00\x00\n"])
def test_a_torn_line_and_all_after_it_are_taken_out(torn: str) -> None:
    assert kept(9, 9, STEP % 0 + torn + STEP % 2) == STEP % 0


def test_a_resumed_file_has_each_step_once(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    for first in (0, 2):
        with MetricsFile(file, first, 0) as metrics:
            for step in range(first, 4):
                metrics.step(Step(step, 0.1, 1.0), 0, 0)
    steps = [json.loads(line)["step"] for line in file.read_text().splitlines()]
    assert steps == [0, 1, 2, 3]


def test_a_terminal_shows_loss_rate_images_per_second_and_the_time_left(
    digits_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    run = read_run(digits_run)
    with Progress(run, first_step=1) as progress:
        for step in range(1, 25):
            progress.step(Step(step, 0.05, 1.25), 0, 0)
        progress._bar.refresh()
        progress.epoch(Step(24, 0.05, 1.25), 0, 0, VAL, seconds=2.0)
    said = screen.getvalue()
    assert "validation: nll 0.5000  accuracy 75.00%  macro accuracy 62.50%" in said
    assert "going on after step 1\n" in said
    assert "loss=1.250, lr=0.0500" in said and "images/s" in said
    bar = next(part for part in said.split("\r") if " images/s" in part)
    assert f"{run.schedule.total_steps * run.training.batch_size / 1000:.2f}k" in bar
    # 24 of this epoch's 25 steps were done here
    assert f"{24 * run.training.batch_size / 2:,.0f} images/s" in said


def test_an_epoch_without_a_step_of_its_own_is_told_too(
    digits_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(read_run(digits_run), first_step=25) as progress:
        progress.epoch(Step(24, 0.05, 1.25), 0, 0, VAL, seconds=0.01)
    assert "step 25/" in capsys.readouterr().err


def test_a_branch_is_told_by_its_own_end(
    digits_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = read_run(digits_run)
    branch = Branch(cycle=1, first=FileRef(file="first.safetensors", sha256="0" * 64))
    first, _, _ = ends = run.schedule.cycle_ends
    with Progress(run.model_copy(update={"branch": branch}), first_step=first) as progress:
        progress.epoch(Step(ends[1] - 1, 0.05, 1.25), 3, 1, VAL, seconds=1.0)
    said = capsys.readouterr().err
    assert "; cycle 1 is trained here" in said
    assert f"step {ends[1]}/{ends[1]}" in said and "0:00:00 left" in said
