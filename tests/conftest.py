import hashlib
import os
import pickle
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from snapensemble.contracts.process import SIGNALS
from tests.factories import cascade_record, make_bundle, trunk_file
from tests.shared import made_once, share

if TYPE_CHECKING:  # the tests of serving run without torch
    from torch import Tensor, nn

# The same examples every time, and no verdict by the clock: these machines are shared.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# Tests run beside each other: two processes of two threads each would wait for one another.
os.environ["OMP_NUM_THREADS"] = "1"

# What a run leaves is the same to the bit on the processor only; `make test-gpu` shows the GPU.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

# As where a shell starts a program: under `nohup` a hangup would be ignored, here and in children.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Tests of containers need an engine and minutes, those of the page a browser, those of packages an
# index, those of clusters Ray: `make test-container`, `make test-browser`, `make package`,
# `make test-ray` and `make test-ray-serve` name them.
collect_ignore = [
    folder
    for folder in ("container", "browser", "package", "ray", "ray_serve")
    if not any(f"tests/{folder}" in argument for argument in sys.argv[1:])
]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Decoded images of tests never reach the user's own cache."""
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNAPENSEMBLE_CACHE", str(directory))
        yield directory


@pytest.fixture(scope="session", autouse=True)
def _shared(tmp_path_factory: pytest.TempPathFactory) -> None:
    share(tmp_path_factory)


@pytest.fixture
def bundle_dir(tmp_path: Path) -> Path:
    """Three linear members over noise."""
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def trunk_dir(tmp_path: Path) -> Path:
    """Three members on a trunk, which may be asked as a cascade."""
    cascade = cascade_record((0.8, 0.5), (0.9, 0.7))
    return make_bundle(tmp_path / "shared", trunk=trunk_file(), cascade=cascade)


@pytest.fixture
def unrendered() -> Iterator[None]:
    """For tests that read the words of a page: its charts are not rendered."""
    from tests.rendering import unrendered

    with unrendered():
        yield


@pytest.fixture(scope="session")
def conversions() -> Iterator[None]:
    """Have torch convert an architecture once for all tests: that takes seconds.

    That networks which share a graph get the bytes that each would get by itself is tested in
    `tests/export/test_onnx_export.py`.
    """
    import snapensemble.export.onnx_export
    from snapensemble.export.onnx_export import Graph
    from snapensemble.export.onnx_export import converted as real

    def converted(network: "nn.Module", example: "Tensor", gives: str) -> Graph:
        state = network.state_dict()
        others = [b.numpy().tobytes() for name, b in network.named_buffers() if name not in state]
        same = (str(network), example.shape, example.dtype, gives, *others)

        def make(out: Path) -> None:
            out.write_bytes(pickle.dumps(tuple(real(network, example, gives))))

        digest = hashlib.sha256(repr(same).encode()).hexdigest()
        return Graph(*pickle.loads(made_once(f"graph-{digest}", make).read_bytes()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapensemble.export.onnx_export, "converted", converted)
        yield


@pytest.fixture(scope="session")
def digits_run(conversions: None) -> Path:
    """A real, short run on the digits: 3 cycles of 2 epochs."""
    from snapensemble.trainer.config import TrainConfig
    from snapensemble.trainer.run import train

    def make(out: Path) -> None:
        train(TrainConfig(data="digits", out=out, cycles=3, cycle_epochs=2, threads=1))

    return made_once("digits-run", make)


@pytest.fixture(scope="session")
def digits_bundle(digits_run: Path) -> Path:
    """A bundle of the best two snapshots of `digits_run`."""
    from snapensemble.export.bundle import build_bundle
    from snapensemble.export.config import ExportConfig

    config = ExportConfig(select="best", members=2, name="digits", report=False)
    return made_once("digits-bundle", lambda out: build_bundle(digits_run, out, config))


@pytest.fixture
def signal_handlers() -> Iterator[None]:
    """Put the signals' handlers back: after a stop they are the system's, which end the process."""
    kept = {signum: signal.getsignal(signum) for signum in SIGNALS}
    yield
    for signum, handler in kept.items():
        signal.signal(signum, handler)
