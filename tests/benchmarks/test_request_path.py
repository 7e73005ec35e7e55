"""How many files a prediction passes through: whoever reads the server's code has to know them."""

from pathlib import Path

from benchmarks.serving.request_path import path
from tests.factories import encoded, make_bundle, picture
from tests.serving.telemetry.test_drift import REFERENCE


def test_a_prediction_passes_through_at_most_eighteen_files(tmp_path: Path) -> None:
    functions = path(make_bundle(tmp_path / "bundle", reference=REFERENCE), encoded(picture(1)))
    assert len(functions) <= 18, list(functions)
    assert next(iter(functions)) == "http/protocol.py"
    assert {"http/prediction.py", "inference/admission.py", "inference/session.py"} < set(functions)


def test_a_trunk_adds_no_file_to_it(trunk_dir: Path) -> None:
    assert len(path(trunk_dir, encoded(picture(1)))) <= 18
