"""Commands that take long say at once that they may not write where they are to."""

from pathlib import Path
from typing import Any

import pytest

from snapensemble.cli import main
from tests.factories import encoded, picture

# Each command, and the function of it that takes long.
COMMANDS = {
    "train --data digits --cycles 1 --cycle-epochs 1 --out {out}": "trainer.build.load_dataset",
    "suspects {run} --out {out}": "suspects.reread_dataset",
    "export {run} --out {out}": "export.bundle.pooled",
    "report {run} --out {out}": "report.run.page.measure",
    "predict {picture} --bundle {bundle} --explain {out}": "predict.predict_with_bundle",
    "predict {picture} --bundle {bundle} --out {out}/rows.csv": "many.run.classify",
}


class TooLate(Exception):
    """What takes long has begun."""


def too_late(*_arguments: object, **_named: object) -> Any:
    raise TooLate


@pytest.mark.parametrize(("command", "long"), COMMANDS.items())
def test_a_place_that_cannot_be_is_refused_before_what_takes_long(
    command: str,
    long: str,
    digits_run: Path,
    bundle_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "one.png").write_bytes(encoded(picture(1)))
    (tmp_path / "file").touch()
    monkeypatch.setattr(f"snapensemble.{long}", too_late)

    def run(out: Path) -> int:
        places = {"out": out, "run": digits_run, "bundle": bundle_dir}
        places["picture"] = tmp_path / "one.png"
        return main([part.format(**places) for part in command.split()])

    before = sorted(tmp_path.rglob("*"))
    assert run(tmp_path / "file" / "out") == 2
    assert f"{tmp_path / 'file'}: cannot write: Not a directory; choose" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(TooLate):  # a place that can be is not refused
        run(tmp_path / "new" / "out")


def test_a_run_that_goes_on_where_it_may_not_write_says_so_before_it_reads_images(
    digits_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_only(*_arguments: object, **_named: object) -> Any:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("snapensemble.trainer.build.load_dataset", too_late)
    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    assert main(["train", "--resume", str(digits_run), "--more-cycles", "1"]) == 2
    assert f"{digits_run}: cannot write: Read-only file system" in capsys.readouterr().err
