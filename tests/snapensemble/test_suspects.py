"""`snapensemble suspects` on real runs: digits with some labels made wrong and some kept twice."""

import csv
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snapensemble.cli import main
from snapensemble.contracts.errors import InvalidConfig, InvalidData
from snapensemble.contracts.run import read_run, write_run
from snapensemble.many.rows import path_of
from snapensemble.report.suspects import write_suspects
from snapensemble.suspects import doubled, suspects
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.data.readers import digits
from snapensemble.trainer.run import train
from tests.factories import encoded, picture
from tests.shared import made_once
from tests.trainer.folders import load, make_folder

WRONG, TWICE = 40, 6


def wrong_of(count: int) -> Any:
    return np.random.default_rng(0).permutation(count)[:WRONG]


@pytest.fixture(scope="module")
def run_dir() -> Path:
    """800 digits of which 40 have the label of the next digit, and 6 are there once more."""

    def make(out: Path) -> None:
        everything = digits().everything
        assert everything is not None
        images, labels = everything.images_NCHW[:800], everything.labels_N[:800].copy()
        labels[wrong_of(800)] = (labels[wrong_of(800)] + 1) % 10
        out.mkdir()
        np.savez(
            out / "digits.npz",
            x_train=np.concatenate([images, images[:TWICE]]),
            y_train=np.concatenate([labels, labels[:TWICE]]),
            classes=np.arange(10).astype(str),
        )
        spec = f"npz:{out / 'digits.npz'}"
        train(TrainConfig(data=spec, out=out / "run", cycles=2, cycle_epochs=3, threads=1))

    return made_once("doubtful-run", make) / "run"


def rows_of(directory: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((directory / "suspects.csv").read_text())))


def test_most_of_the_first_suspects_are_truly_wrong_and_the_right_label_is_suggested(
    run_dir: Path, tmp_path: Path
) -> None:
    suspects(run_dir, out=tmp_path, top=WRONG)
    found = [row for row in rows_of(tmp_path) if row["reason"] == "label"]
    wrong = {f"train[{place}]": place for place in wrong_of(800).tolist()}
    hits = [row for row in found if row["picture"] in wrong]
    assert len(found) == WRONG and len(hits) >= 0.8 * WRONG
    right = [row for row in hits if (int(row["suggested"]) + 1) % 10 == int(row["label"])]
    assert len(right) >= 0.9 * len(hits)
    scores = [float(row["score"]) for row in found]
    assert scores == sorted(scores, reverse=True)
    assert {row["split"] for row in found} == {"train", "val"}


def test_a_picture_that_is_there_twice_is_named_with_its_other_place(
    run_dir: Path, tmp_path: Path
) -> None:
    suspects(run_dir, out=tmp_path, top=1)
    found = [row for row in rows_of(tmp_path) if row["reason"] == "exact-duplicate"]
    pairs = [{row["picture"], row["other"]} for row in found]
    for place in range(TWICE):
        assert {f"train[{place}]", f"train[{800 + place}]"} in pairs


def test_a_name_that_no_text_can_hold_is_written_as_predict_writes_it(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "photos", {"=a": 9, "b": 9})
    names = {os.fsdecode(b"=a/\xff.png"), "b/two\nlines.png"}
    for name in names:
        (root / name).write_bytes(encoded(picture(99)))
    found = doubled(load(str(root)))
    write_suspects(tmp_path / "out", found, data="photos", judged=0, thumbnails=False)
    (row,) = rows_of(tmp_path / "out")
    assert {row["picture"], row["other"]} == {"./=a/\\udcff.png", "b/two\\nlines.png"}
    assert {str(Path(path_of(row[each]))) for each in ("picture", "other")} == names
    assert "two\\nlines.png" in (tmp_path / "out" / "suspects.html").read_text()


def test_the_command_names_the_page_last_and_writes_into_the_run_unless_told_otherwise(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["suspects", str(run_dir), "--top", "3", "--no-thumbnails"]) == 0
    *_, summary, _, table, page = capsys.readouterr().out.splitlines()
    assert summary.startswith("806 labels were looked at; 3 of them may be wrong")
    assert Path(table) == run_dir / "suspects" / "suspects.csv"
    text = Path(page).read_text()
    assert page.endswith("suspects.html") and "<img" not in text
    assert main(["suspects", str(run_dir), "--top", "3", "--out", str(tmp_path / "new")]) == 0
    assert "<img" in (tmp_path / "new" / "suspects.html").read_text()


def test_a_run_without_a_snapshot_and_data_of_other_classes_are_refused(
    run_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidData, match="they must be equal"):
        suspects(run_dir, data=str(two_classes(tmp_path / "folder")), out=tmp_path / "out")
    empty = read_run(run_dir).model_copy(update={"snapshots": (), "averages": ()})
    (tmp_path / "run").mkdir()
    write_run(tmp_path / "run", empty)
    with pytest.raises(InvalidConfig, match="no finished cycle yet"):
        suspects(tmp_path / "run")
    assert not (tmp_path / "run" / "suspects").exists()


def two_classes(directory: Path) -> Path:
    from tests.trainer.folders import make_folder

    return make_folder(directory, {"a": 5, "b": 5})
