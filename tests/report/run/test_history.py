from pathlib import Path

import pytest

from snapensemble.contracts.errors import InvalidManifest
from snapensemble.report.run.history import read_history
from tests.report.run.runs import metrics_lines, write_metrics


def test_steps_epochs_and_the_starts_of_cycles_are_read(tmp_path: Path) -> None:
    write_metrics(tmp_path, 25)
    history = read_history(tmp_path)
    assert list(history.step_T) == list(range(25))
    assert history.rate_T[10] == 0.1 and history.loss_T[1] == 1.0
    assert list(history.done_E) == [5, 10, 15, 20, 25]
    assert history.starts == {0: 0, 1: 10, 2: 20}


@pytest.mark.parametrize("tail", ['{"step": 12, "epo', "\0\0\0", '{"step": 3', "7", "[1]", "{]\n"])
def test_the_torn_last_line_of_a_killed_run_is_left_out(tmp_path: Path, tail: str) -> None:
    write_metrics(tmp_path, 12, tail=tail)
    assert list(read_history(tmp_path).step_T) == list(range(12))


def test_another_damaged_line_is_named(tmp_path: Path) -> None:
    write_metrics(tmp_path, 2, tail='{"step": 2, "ep\n' + metrics_lines(4, first=3)[0] + "\n")
    with pytest.raises(InvalidManifest, match="metrics.jsonl: line 3 is damaged"):
        read_history(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"step": 0, "cycle": 0, "lr": 0.1, "loss": NaN}', "NaN is no number"),
        ('{"step": 0, "cycle": 0, "lr": 1e999, "loss": 1}', "lr must be a number, found inf"),
        ('{"step": 0, "cycle": 0, "lr": 0.1, "loss": "low"}', "loss must be a number"),
        ('{"step": -1, "cycle": 0, "lr": 0.1, "loss": 1}', "step must be a whole number"),
        ('{"step": 0, "lr": 0.1, "loss": 1}', "cycle must be a whole number"),
        ('{"step": 0, "cycle": 0, "lr": 0.1, "loss": 1' + 400 * "0" + "}", "too large"),
        ('{"step": 4, "val_nll": 1}', "val_accuracy must be a number"),
    ],
)
def test_what_is_no_number_is_refused(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(line + "\n" + metrics_lines(1)[0] + "\n")
    with pytest.raises(InvalidManifest, match=message):
        read_history(tmp_path)


def test_steps_that_a_resumed_run_does_again_count_once(tmp_path: Path) -> None:
    write_metrics(tmp_path, 18, tail="\n".join(metrics_lines(25, first=8)))
    history = read_history(tmp_path)
    assert list(history.step_T) == list(range(25))
    assert list(history.done_E) == [5, 10, 15, 20, 25]
    assert history.starts == {0: 0, 1: 10, 2: 20}


def test_a_run_without_metrics_is_explained(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="metrics.jsonl: No such file"):
        read_history(tmp_path)
