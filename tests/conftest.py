import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from snapensemble.contracts.process import SIGNALS
from tests.factories import make_bundle

# The same examples every time, and no verdict by the clock: these machines are shared.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# As a shell starts a program: under `nohup`, for one, it would be ignored, here and in children.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# They need a container engine and minutes: `make test-container` names them.
collect_ignore = (
    [] if any("tests/container" in argument for argument in sys.argv[1:]) else ["container"]
)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Decoded images of tests never reach the user's own cache."""
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNAPENSEMBLE_CACHE", str(directory))
        yield directory


@pytest.fixture
def bundle_dir(tmp_path: Path) -> Path:
    """Three linear members over noise."""
    return make_bundle(tmp_path / "bundle")


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real, short run on the digits: 3 cycles of 2 epochs."""
    from snapensemble.trainer.config import TrainConfig
    from snapensemble.trainer.run import train

    out = tmp_path_factory.mktemp("digits") / "run"
    return train(TrainConfig(data="digits", out=out, cycles=3, cycle_epochs=2, threads=1))


@pytest.fixture(scope="session")
def digits_bundle(digits_run: Path) -> Path:
    """The best two of its snapshots."""
    from snapensemble.export.bundle import build_bundle
    from snapensemble.export.config import ExportConfig

    config = ExportConfig(members=2, name="digits", report=False)
    build_bundle(digits_run, digits_run.parent / "bundle", config)
    return digits_run.parent / "bundle"


@pytest.fixture
def signal_handlers() -> Iterator[None]:
    """Put SIGINT's and SIGTERM's handlers back: after a stop they are such that one kills."""
    kept = {signum: signal.getsignal(signum) for signum in SIGNALS}
    yield
    for signum, handler in kept.items():
        signal.signal(signum, handler)
