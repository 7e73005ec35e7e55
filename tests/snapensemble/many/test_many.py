"""`snapensemble predict` with folders: the rows, and what happens when it is stopped."""

import csv
import errno
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from pyarrow import parquet

from snapensemble.cli import main
from snapensemble.many import output, places, run
from snapensemble.many.files import Pictures
from snapensemble.many.output import Output, progress_file
from snapensemble.many.sinks import own_names
from snapensemble.predict import predict_with_bundle
from tests.factories import encoded, make_bundle, make_cascade_bundle, picture
from tests.forks import finished

COUNT = 12


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures in two folders, with the same names, and one file that is none."""
    root = tmp_path / "photos"
    for number in range(COUNT):
        file = root / "ab"[number % 2] / f"{number // 2}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(picture(number)))
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return root


def predict(*arguments: object) -> int:
    return main(["predict", *map(str, arguments)])


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of any format; the cells of CSV as what they stand for."""
    if file.suffix == ".parquet":
        return parquet.read_table(file).to_pylist()  # type: ignore[no-any-return]
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    with file.open(newline="") as lines:
        return [
            {
                name: None if not cell else cell if name in ("path", "class", "error")
                or name.endswith("_to") else json.loads(cell)
                for name, cell in row.items()
            }
            for row in csv.DictReader(lines)
        ]  # fmt: skip


def paths_of(file: Path) -> list[str]:
    return [row["path"] for row in rows_of(file)]


def goes_on_to_the_end(photos: Path, bundle_dir: Path, out: Path) -> None:
    """The same command ends well, and each picture is there once."""
    assert predict(photos, "--bundle", bundle_dir, "--out", out) == 0
    assert len(set(paths_of(out))) == len(paths_of(out)) == COUNT + 1


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_every_picture_has_the_answer_that_it_has_alone(
    suffix: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle_dir = make_cascade_bundle(tmp_path / "bundle")
    out = tmp_path / f"rows.{suffix}"
    flags = ("--top", 2, "--coverage", 0.9, "--probabilities")
    assert predict(photos, "--bundle", bundle_dir, "--out", out, *flags) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == str(out)
    rows = rows_of(out)
    assert len(rows) == COUNT + 1
    for row in rows[:-1]:
        file = Path(row["path"])
        (alone,) = predict_with_bundle(
            bundle_dir, [file], [file.read_bytes()], top=2, coverage=0.9
        )["predictions"]
        assert row["class"] == alone["class"] and row["index"] == alone["index"]
        assert row["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-6)
        assert [t["class"] for t in row["top"]] == [t["class"] for t in alone["top"]]
        assert row["prediction_set"] == alone["prediction_set"]["classes"]
        assert row["disagreement_nats"] == pytest.approx(
            alone["uncertainty"]["disagreement_nats"], abs=1e-6
        )
        assert row["members_used"] == 3 and row["error"] is None
    assert rows[-1]["path"] == str(photos / "broken.jpg") and rows[-1]["class"] is None
    assert "the JPEG is cut off" in rows[-1]["error"]
    assert f"{COUNT} pictures answered" in captured.err
    assert "1 cannot be read:\n" in captured.err and "broken.jpg: " in captured.err


def test_without_a_file_there_is_a_line_per_picture(
    photos: Path, bundle_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(f"{photos}/a/*.png", "--bundle", bundle_dir) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == COUNT // 2 and all("disagreement" in line for line in lines)


def test_single_pictures_are_answered_as_before(
    photos: Path, bundle_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = photos / "a" / "0.png"
    assert predict(file, "--bundle", bundle_dir, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["predictions"]) == 1 and answer["model"]["name"] == "insects"
    assert predict(photos / "broken.jpg", "--bundle", bundle_dir) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["PHOTOS", "--url", "http://127.0.0.1:1"], "answered here: give --bundle"),
        (["PHOTOS", "--bundle", "BUNDLE", "--json"], "give --out FILE.jsonl"),
        (["PHOTOS", "--bundle", "BUNDLE", "--out", "rows.txt"], "one of .csv, .jsonl, .parquet"),
        (["PHOTOS", "--bundle", "BUNDLE", "--move-to", "x"], "--move-to needs --out"),
        (
            ["PHOTOS", "--bundle", "BUNDLE", "--out", "r.csv", "--move-to", "x", "--link-to", "y"],
            "give either --move-to or --link-to",
        ),
        (["PHOTOS/a/0.png", "--bundle", "BUNDLE", "--restart"], "--restart needs --out"),
        (["PHOTOS/none", "--bundle", "BUNDLE", "--out", "r.csv"], "no such file or folder"),
        (["EMPTY", "--bundle", "BUNDLE", "--out", "r.csv"], "no pictures in .*passed over: 1 .txt"),
    ],
)
def test_what_cannot_work_is_said(
    arguments: list[str],
    message: str,
    photos: Path,
    bundle_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").touch()
    for word, path in (("PHOTOS", photos), ("BUNDLE", bundle_dir), ("EMPTY", tmp_path / "empty")):
        arguments = [each.replace(word, str(path)) for each in arguments]
    assert predict(*arguments) == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_same_command_again_adds_what_is_new(
    photos: Path, bundle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for suffix in ("csv", "jsonl", "parquet"):
        out = tmp_path / f"rows.{suffix}"
        (photos / "a" / "new.png").unlink(missing_ok=True)
        assert predict(photos, "--bundle", bundle_dir, "--out", out) == 0
        before = rows_of(out)
        assert predict(photos, photos / "b", "--bundle", bundle_dir, "--out", out) == 0
        assert rows_of(out) == before
        (photos / "a" / "new.png").write_bytes(encoded(picture(99)))
        capsys.readouterr()
        assert predict(photos, "--bundle", bundle_dir, "--out", out) == 0
        rows = rows_of(out)
        assert rows[:-1] == before and rows[-1]["path"] == str(photos / "a" / "new.png")
        assert "1 pictures answered" in (said := capsys.readouterr().err)
        assert f"{COUNT + 1} had a row already" in said


def test_other_options_another_bundle_and_other_files_are_refused(
    photos: Path, bundle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.csv"
    assert predict(photos, "--bundle", bundle_dir, "--out", out) == 0
    before = out.read_bytes()
    other = make_bundle(tmp_path / "other", weights_M=[0.5, 0.25, 0.25])
    for bundle, flags, message in (
        (bundle_dir, ("--top", 1), "begun in another way: --top was 5, is 1"),
        (other, (), "begun in another way: the bundle was "),
    ):
        assert predict(photos, "--bundle", bundle, "--out", out, *flags) == 2
        said = capsys.readouterr().err
        assert message in said and "--restart" in said
    progress_file(out).unlink()
    assert predict(photos, "--bundle", bundle_dir, "--out", out) == 2
    assert "is there already" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert predict(photos, "--bundle", other, "--out", out, "--restart", "--top", 1) == 0
    assert len(rows_of(out)) == COUNT + 1 and out.read_bytes() != before


def test_a_torn_line_is_noticed_and_written_again(
    photos: Path, bundle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.csv"
    assert predict(photos / "a", "--bundle", bundle_dir, "--out", out) == 0
    whole = out.read_bytes()
    out.write_bytes(whole + b'photos/b/0.png,"to')
    assert predict(photos / "a", "--bundle", bundle_dir, "--out", out) == 0
    assert "18 bytes after them were not whole" in capsys.readouterr().err
    assert out.read_bytes() == whole


@pytest.mark.parametrize("change", [lambda data: data[:-3], lambda data: data[:-5] + b"12345"])
def test_rows_that_were_changed_are_refused(
    change: Callable[[bytes], bytes],
    photos: Path,
    bundle_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "rows.csv"
    assert predict(photos, "--bundle", bundle_dir, "--out", out) == 0
    out.write_bytes(change(out.read_bytes()))
    assert predict(photos, "--bundle", bundle_dir, "--out", out) == 2
    assert "was changed since its rows were written" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_a_restart_forgets_what_is_damaged(
    photos: Path, bundle_dir: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / name
    rows = out if name == "rows.csv" else out.with_name(out.name + ".rows")
    progress = progress_file(rows)
    for damage in (lambda: progress.write_bytes(b"no database" * 99), progress.unlink):
        assert predict(photos, "--bundle", bundle_dir, "--out", out) == 0
        whole = out.read_bytes()
        damage()
        assert predict(photos, "--bundle", bundle_dir, "--out", out) == 2
        assert predict(photos / "a", "--bundle", bundle_dir, "--out", out, "--restart") == 0
        assert 0 < len(out.read_bytes()) < len(whole)
        assert predict(photos, "--bundle", bundle_dir, "--out", out, "--restart") == 0
        assert out.read_bytes() == whole


def test_two_at_once_do_not_write_one_file(
    photos: Path, bundle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.csv"
    assert predict(photos, "--bundle", bundle_dir, "--out", out) == 0
    arguments = ("predict", photos, "--bundle", bundle_dir, "--out", out)
    other = sqlite3.connect(progress_file(out), isolation_level=None)
    other.execute("begin exclusive")
    before = out.read_bytes()
    for more in ((), ("--restart",)):
        assert main([str(each) for each in (*arguments, *more)]) == 2
        assert "another process is writing" in capsys.readouterr().err
    other.close()
    assert out.read_bytes() == before and progress_file(out).exists()


def killing(event: int, work: Callable[[], int]) -> int:
    """Do some work in a child that gets SIGKILL at an event; give how many events there were.

    Events are rows, and the moments before and after what makes rows safe or puts a picture
    somewhere.
    """
    seen = 0

    def counted(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def tick() -> None:
            nonlocal seen
            seen += 1
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)

        def around(*args: Any, **kwargs: Any) -> Any:
            tick()
            result = real(*args, **kwargs)
            tick()
            return result

        mock.patch.object(owner, name, around).start()

    def counting() -> int:
        mock.patch.object(output, "PORTION_ROWS", 4).start()
        counted(Output, "add")
        counted(Output, "_note")
        for name in ("fsync", "link", "unlink", "symlink", "replace"):
            counted(os, name)
        code = work()
        sys.stdout.write(f"\nevents: {seen}")
        return code

    done = finished(counting)
    if done.returncode == -signal.SIGKILL:
        return event
    assert done.returncode == 0, done.stderr
    return int(done.stdout.rpartition("events:")[2])


@pytest.mark.parametrize("suffix", ["csv", pytest.param("parquet", marks=pytest.mark.slow)])
def test_killed_at_any_moment_nothing_is_lost_and_nothing_is_there_twice(
    suffix: str, photos: Path, bundle_dir: Path, tmp_path: Path
) -> None:
    def work(out: Path) -> Callable[[], int]:
        return lambda: predict(photos, "--bundle", bundle_dir, "--out", out)

    whole = tmp_path / f"whole.{suffix}"
    events = killing(0, work(whole))
    assert events > 30
    for event in range(1, events + 1, 3):
        out = tmp_path / f"rows-{event}.{suffix}"
        killing(event, work(out))
        assert work(out)() == 0
        # Pictures meet in other micro-batches, which may change last digits.
        assert rounded(rows_of(out)) == rounded(rows_of(whole))


def rounded(values: Any) -> Any:
    """The same with six digits of every number."""
    if isinstance(values, dict):
        return {name: rounded(value) for name, value in values.items()}
    if isinstance(values, list):
        return [rounded(value) for value in values]
    return round(values, 6) if isinstance(values, float) else values


def only_within_a_folder(source: str, target: str, real: Callable[..., None] = os.link) -> None:
    """`os.link` where every folder is a file system of its own."""
    if os.path.dirname(source) != os.path.dirname(target):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    real(source, target)


def never(source: str, target: str) -> None:
    """`os.link` of a file system without links."""
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize(
    "link", [os.link, only_within_a_folder, pytest.param(never, marks=pytest.mark.slow)]
)
def test_killed_at_any_moment_every_picture_is_in_one_place(
    link: Callable[[str, str], None],
    photos: Path,
    bundle_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "link", link)
    kept = {file: file.read_bytes() for file in photos.rglob("*.png")}
    events = 0
    for event in (0, *range(1, 200, 9)):
        if event > events > 0:
            break
        for file, data in kept.items():
            file.write_bytes(data)
        out, by_class = tmp_path / f"{event}.csv", tmp_path / f"sorted-{event}"

        def work(out: Path = out, by_class: Path = by_class) -> int:
            return predict(photos, "--bundle", bundle_dir, "--out", out, "--move-to", by_class)

        events = max(events, killing(event, work))
        assert work() == 0
        rows = [row for row in rows_of(out) if row["error"] is None]
        assert sorted(row["path"] for row in rows) == sorted(map(str, kept))
        for row in rows:
            moved, source = Path(row["moved_to"]), Path(row["path"])
            assert moved.read_bytes() == kept[source] and not source.exists()
            assert moved.parent == by_class / row["class"]
        assert len({row["moved_to"] for row in rows}) == COUNT
        assert len([f for f in by_class.rglob("*") if f.is_file()]) == COUNT
        assert (photos / "broken.jpg").exists()
    assert events > 60


def test_an_interrupt_ends_between_two_answers(
    photos: Path, bundle_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    real = Output.add

    def work() -> int:
        def add(self: Output, *args: Any) -> None:
            real(self, *args)
            os.kill(os.getpid(), signal.SIGINT)

        mock.patch.object(Output, "add", add).start()
        return predict(photos, "--bundle", bundle_dir, "--out", out)

    done = finished(work)
    assert done.returncode == 130
    assert "the same command goes on" in done.stderr and "stopped by SIGINT" in done.stderr
    assert len(rows_of(out)) == 1
    goes_on_to_the_end(photos, bundle_dir, out)


def test_a_full_disk_is_said_and_the_same_command_goes_on(
    photos: Path,
    bundle_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "rows.csv"
    monkeypatch.setattr(output, "PORTION_ROWS", 4)
    real, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert predict(photos, "--bundle", bundle_dir, "--out", out) == 2
    said = f"{out}: the disk is full; free some space: 4 rows are safe; the same command goes on"
    assert said in capsys.readouterr().err
    goes_on_to_the_end(photos, bundle_dir, out)


def test_sqlite_says_a_full_disk_in_the_same_words(
    photos: Path,
    bundle_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "rows.csv"
    connected = output.Output._connected

    def small(self: output.Output) -> sqlite3.Connection:
        db = connected(self)
        db.execute("pragma max_page_count = 2")
        return db

    with monkeypatch.context() as patch:
        patch.setattr(output.Output, "_connected", small)
        assert predict(photos, "--bundle", bundle_dir, "--out", out) == 2
    assert "rows.csv.progress: the disk is full; free some space" in capsys.readouterr().err
    assert predict(photos, "--bundle", bundle_dir, "--out", out) == 0
    assert len(paths_of(out)) == COUNT + 1


class Filling(sqlite3.Connection):
    """A database whose disk is full at its third commit."""

    commits = 0

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        self.commits += sql == "commit"
        if sql == "commit" and self.commits == 3:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return super().execute(sql, *args)


def test_rows_that_could_not_be_noted_are_not_called_safe(
    photos: Path,
    bundle_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "rows.csv"
    monkeypatch.setattr(output, "PORTION_ROWS", 4)
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Filling))
        assert predict(photos, "--bundle", bundle_dir, "--out", out) == 2
    assert "free some space: 4 rows are safe" in capsys.readouterr().err
    goes_on_to_the_end(photos, bundle_dir, out)
    assert "going on after 4 rows" in capsys.readouterr().err


def test_the_folder_of_the_file_is_made_and_one_that_cannot_be_is_named(
    photos: Path, bundle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "rows.csv"
    assert predict(photos, "--bundle", bundle_dir, "--out", out) == 0
    assert len(paths_of(out)) == COUNT + 1
    capsys.readouterr()
    assert predict(photos, "--bundle", bundle_dir, "--out", out / "rows.csv") == 2
    assert f"{out}: cannot write: Not a directory; choose another" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_whatever_is_written_beside_the_pictures_is_not_called_passed_over(
    suffix: str, photos: Path, bundle_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, beside = photos / f"rows.{suffix}", set[str]()
    commit = Output.commit

    def looking(self: Output) -> None:
        self._db.set_trace_callback(lambda _: beside.update(os.listdir(photos)))
        commit(self)

    monkeypatch.setattr(Output, "commit", looking)
    assert predict(photos, "--bundle", bundle_dir, "--out", out) == 0
    written = {name for name in beside if name.startswith("rows.")}
    assert any(name.endswith("-journal") for name in written)
    assert written <= set(own_names(out))


def test_a_place_that_is_taken_is_never_written_over(
    photos: Path, bundle_dir: Path, tmp_path: Path
) -> None:
    by_class = tmp_path / "sorted"
    for name in ("ant", "bee", "cow"):
        (by_class / name).mkdir(parents=True)
        (by_class / name / "0.png").write_text("mine")
    out = tmp_path / "rows.jsonl"
    flags = ("--out", out, "--link-to", by_class)
    assert predict(photos, "--bundle", bundle_dir, *flags) == 0
    for row in rows_of(out)[:-1]:
        link = Path(row["linked_to"])
        assert link.is_symlink() and link.resolve() == Path(row["path"]).resolve()
        assert link.parent.name == row["class"]
    for name in ("ant", "bee", "cow"):
        assert (by_class / name / "0.png").read_text() == "mine"
    assert {Path(row["linked_to"]).name for row in rows_of(out)[:-1]} >= {"0-2.png"}


def test_pictures_are_moved_after_their_rows_are_safe(
    photos: Path, bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rows.jsonl"
    seen: list[bool] = []
    real = places.Places.put

    def put(self: places.Places, placements: list[places.Placement]) -> None:
        written = set(paths_of(out))
        seen.extend(source in written for source, _ in placements)
        real(self, placements)

    monkeypatch.setattr(places.Places, "put", put)
    flags = ("--out", out, "--move-to", photos / "sorted")
    assert predict(photos, "--bundle", bundle_dir, *flags) == 0
    assert seen == [True] * COUNT
    assert predict(photos, "--bundle", bundle_dir, *flags) == 0  # what was moved is not found again
    assert len(rows_of(out)) == COUNT + 1


def test_no_more_pictures_are_under_way_than_the_lanes_need(
    photos: Path, bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "PER_LANE", 1)
    monkeypatch.setattr(run, "AT_LEAST", 3)
    found, written, most = 0, 0, 0
    real_iter, real_add = Pictures.__iter__, Output.add

    def pictures(self: Pictures) -> Any:
        nonlocal found
        for each in real_iter(self):
            found += 1
            yield each

    def add(self: Output, *args: Any) -> None:
        nonlocal written, most
        most = max(most, found - written)
        written += 1
        real_add(self, *args)

    monkeypatch.setattr(Pictures, "__iter__", pictures)
    monkeypatch.setattr(Output, "add", add)
    monkeypatch.setattr("snapensemble.serving.inference.engine.cpu_budget", lambda: 2)
    assert predict(photos, "--bundle", bundle_dir, "--out", tmp_path / "rows.csv") == 0
    assert written == COUNT + 1 and most == 3


def test_nothing_of_training_and_no_reader_of_parquet_is_imported() -> None:
    heavy = ("torch", "pyarrow", "sklearn", "tqdm", "snapensemble.trainer")
    script = f"import sys, snapensemble.predict\nprint(set({heavy}) & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout.strip() == "set()", found.stderr


def test_without_pyarrow_a_parquet_file_is_refused_before_anything_is_read(
    photos: Path, bundle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.parquet"
    with mock.patch.dict(sys.modules, {"pyarrow": None, "pyarrow.parquet": None}):
        assert predict(photos, "--bundle", bundle_dir, "--out", out) == 2
    assert "install snapensemble[data], or choose --out FILE.csv" in capsys.readouterr().err
    assert not out.exists()
