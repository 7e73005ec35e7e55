from collections.abc import Iterator
from pathlib import Path

import pytest

from snapensemble.serving.inference.engine import Engine, load_engine
from tests.factories import calibration_record, cascade_record, make_bundle
from tests.serving.conftest import LIMITS


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    bundle_dir = make_bundle(
        tmp_path / "bundle",
        cascade=cascade_record((0.8, 0.5), (0.5, 0.3)),
        calibration=calibration_record(0.6),
    )
    with load_engine(bundle_dir, LIMITS.limits()) as engine:
        yield engine
