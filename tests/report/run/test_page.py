import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from snapensemble.cli import main
from snapensemble.contracts.errors import InvalidConfig, InvalidManifest
from snapensemble.contracts.manifest import FileRef
from snapensemble.contracts.run import Branch, read_run, write_run
from snapensemble.report.run.charts import CHARTS, draw_charts
from snapensemble.report.run.measure import measure
from snapensemble.report.run.page import TRIALS, page, summary, write_report
from tests.report.run.runs import keep, make_run, metrics_lines, write_metrics

FILES = {f"{name}.png" for name in CHARTS}
NASTY = ("<script>alert(1)</script>", '"><img src=//evil.example>', "a & b")


class Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_a_report_is_a_page_and_its_pictures(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    write_report(run_dir, run_dir / "report")
    assert set(os.listdir(run_dir / "report")) == {"index.html", *FILES}
    for file in FILES:
        with Image.open(run_dir / "report" / file) as picture:
            assert picture.format == "PNG" and picture.width == 1440
            assert 400 <= picture.height <= 1300
            assert len(picture.convert("L").getcolors() or []) > 10  # something is drawn


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", classes=NASTY)
    write_report(run_dir, tmp_path / "out")
    text = (tmp_path / "out" / "index.html").read_text()
    tags = Tags(text).found
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert len(images) == len(FILES)
    assert all((i["src"] or "").startswith("data:image/png;base64,") for i in images)
    assert all(re.search(r"\d", i["alt"] or "") for i in images)  # the key numbers, in words
    assert not {"script", "link", "iframe", "object", "a"} & {tag for tag, _ in tags}
    assert "url(" not in text and "@import" not in text and "://" not in text


@pytest.mark.usefixtures("unrendered")
def test_what_comes_from_the_run_is_escaped(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", classes=NASTY)
    run = read_run(run_dir)
    data = run.data.model_copy(update={"spec": "<b>&'\""})
    write_run(run_dir, run.model_copy(update={"data": data}))
    measured = measure(run_dir)
    text = page(measured, {}, Path("a <i> b"))
    assert "<script>" not in text and "<b>" not in text and "<i>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<title>tiny on &lt;b&gt;&amp;&#39;&#34;</title>" in text
    quoted = "&#39;bundles/a &lt;i&gt; b&#39;"
    assert f"snapensemble export &#39;a &lt;i&gt; b&#39; --out {quoted}<" in text


@pytest.mark.usefixtures("unrendered")
def test_the_page_says_what_the_trial_of_restarts_has_decided(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    run = read_run(run_dir)
    measured = measure(run_dir)
    said = {}
    for trial in (None, "open", "fitted", "not fitted"):
        schedule = run.schedule.model_copy(update={"trial": trial})
        decided = replace(measured, run=run.model_copy(update={"schedule": schedule}))
        said[trial] = page(decided, {}, run_dir)
    assert not any(words in said[None] for words in TRIALS.values())
    for trial, words in TRIALS.items():
        assert words in said[trial]


@pytest.mark.usefixtures("unrendered")
def test_the_page_says_that_choosing_and_measuring_on_one_split_flatters(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    write_report(run_dir, tmp_path / "out")
    text = (tmp_path / "out" / "index.html").read_text()
    assert "chosen and measured on the same validation images, which flatters them" in text


def test_a_run_without_a_snapshot_shows_rate_and_loss_and_says_so(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", snapshots=0)
    write_report(run_dir, tmp_path / "out")
    assert set(os.listdir(tmp_path / "out")) == {"index.html", "learning-rate.png", "curves.png"}
    text = (tmp_path / "out" / "index.html").read_text()
    assert "not finished: 0 of 3 cycles have their snapshot" in text
    assert "learning rate and the loss only" in text
    assert "snapensemble train --resume" in text and "snapensemble export" not in text


def test_a_branch_does_not_lack_the_cycles_of_the_star(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", snapshots=0)
    branch = Branch(cycle=2, first=FileRef(file="first.safetensors", sha256="0" * 64))
    write_run(run_dir, read_run(run_dir).model_copy(update={"branch": branch}))
    assert "not finished: 0 of 1 cycles have" in " ".join(summary(measure(run_dir)))


@pytest.mark.parametrize(("steps", "count"), [(0, 0), (1, 2), (4, 2), (5, 2)])
@pytest.mark.usefixtures("unrendered")
def test_a_run_killed_early_has_a_report(tmp_path: Path, steps: int, count: int) -> None:
    run_dir = make_run(tmp_path / "run", snapshots=0)
    write_metrics(run_dir, steps, tail='{"step": ')
    measured = write_report(run_dir, tmp_path / "out")
    assert measured.steps == steps
    assert len(os.listdir(tmp_path / "out")) == count + 1


@pytest.mark.usefixtures("unrendered")
def test_one_snapshot_is_compared_with_nothing(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", snapshots=1, cycles=1, classes=("no", "yes"))
    write_report(run_dir, tmp_path / "out")
    assert not (tmp_path / "out" / "ensemble.png").exists()
    assert "nothing to average" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.parametrize("count", [13, 45])
def test_many_snapshots_fit(tmp_path: Path, count: int) -> None:
    run_dir = make_run(tmp_path / "run", snapshots=count, cycles=count, images=20)
    assert len(write_report(run_dir, tmp_path / "out").best_m) == count


def test_snapshots_that_all_agree_can_be_drawn(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    run = read_run(run_dir)
    same = [s.model_copy(update={"val_logits": run.snapshots[0].val_logits}) for s in run.snapshots]
    write_run(run_dir, run.model_copy(update={"snapshots": tuple(same)}))
    measured = write_report(run_dir, tmp_path / "out")
    assert measured.disagreement_SS.max() == 0 and measured.best_size == 1


@pytest.mark.parametrize("name", ["cosine", "step", "plateau", "constant", "hypergradient"])
@pytest.mark.usefixtures("unrendered")
def test_other_schedules_have_intervals_not_cycles(tmp_path: Path, name: str) -> None:
    measured = measure(make_run(tmp_path / "run"))
    schedule = measured.run.schedule.model_copy(update={"name": name})
    run = measured.run.model_copy(update={"schedule": schedule})
    object.__setattr__(measured, "run", run)
    charts = draw_charts(measured)
    assert charts.keys() == CHARTS.keys()
    text = page(measured, charts, tmp_path)
    assert "Every second interval is shaded" in text and '<th scope="col">interval</th>' in text


def test_a_long_run_is_thinned_for_drawing(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    write_metrics(run_dir, 30_000)
    measured = measure(run_dir)
    assert measured.steps == 30_000 and len(measured.rate.x_T) <= 4000
    assert measured.rate.y_T.max() == 0.1


def test_a_new_report_replaces_the_old_one_and_is_the_same_for_the_same_run(tmp_path: Path) -> None:
    run_dir, out = make_run(tmp_path / "run"), tmp_path / "out"
    write_report(run_dir, out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    write_report(run_dir, out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    write_report(make_run(tmp_path / "other", snapshots=0), out)
    assert set(os.listdir(out)) == {"index.html", "learning-rate.png", "curves.png"}


def test_a_page_that_is_no_report_is_kept(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("my homepage")
    with pytest.raises(InvalidConfig, match="is not a report; it is not replaced"):
        write_report(make_run(tmp_path / "run"), tmp_path)
    assert (tmp_path / "index.html").read_text() == "my homepage"


def test_a_damaged_run_gives_no_report(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    file = run_dir / "val-logits" / "cycle-01.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(InvalidManifest, match=r"cycle-01.npy: sha256 is"):
        write_report(run_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "array", "message"),
    [
        ("logits", np.full((40, 3), np.nan, np.float32), "values are no numbers"),
        ("labels", np.full(40, 3), "expected a list of class indices below 3"),
        ("labels", np.full(40, -1), "expected a list of class indices below 3"),
    ],
)
def test_arrays_that_make_no_sense_are_refused(
    tmp_path: Path, field: str, array: np.ndarray, message: str
) -> None:
    run_dir = make_run(tmp_path / "run")
    run, reference = read_run(run_dir), keep(run_dir, "other.npy", array)
    swapped = run.snapshots[0].model_copy(update={"val_logits": reference})
    changes: dict[str, dict[str, Any]] = {
        "logits": {"snapshots": (swapped, *run.snapshots[1:])},
        "labels": {"val_labels": reference},
    }
    write_run(run_dir, run.model_copy(update=changes[field]))
    with pytest.raises(InvalidManifest, match=message):
        measure(run_dir)


@pytest.mark.usefixtures("unrendered")
def test_the_last_line_of_the_command_is_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = make_run(tmp_path / "run")
    assert main(["report", str(run_dir)]) == 0
    expected = run_dir / "report" / "index.html"
    assert capsys.readouterr().out.splitlines()[-1] == str(expected)
    assert expected.exists()


@pytest.mark.usefixtures("unrendered")
def test_the_numbers_behind_the_pictures_are_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = make_run(tmp_path / "run")
    assert main(["report", str(run_dir), "--out", str(tmp_path / "out"), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    run = read_run(run_dir)
    assert numbers["page"] == str(tmp_path / "out" / "index.html")
    assert [s["nll"] for s in numbers["snapshots"]] == pytest.approx(
        [s.val.nll for s in run.snapshots]
    )
    best = min(run.snapshots, key=lambda s: s.val.nll)
    assert numbers["best_snapshot"] == best.cycle
    assert numbers["ensembles"][0]["best"]["cycles"] == [best.cycle]
    assert numbers["ensembles"][1]["last"]["cycles"] == [1, 2]
    assert numbers["ensembles"][2]["last"]["nll"] == pytest.approx(
        numbers["ensembles"][2]["best"]["nll"]
    )
    assert numbers["curves"]["rate"]["x"] == list(range(30))
    assert numbers["cycle_starts"] == [0, 10, 20]
    assert len(numbers["disagreement"]) == 3 and len(metrics_lines(30)) == 36


def test_a_directory_that_is_no_run_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "run.json does not exist; expected a directory made by" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
