"""Every benchmark starts, and those that can be small are run."""

import ast
import importlib
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import benchmarks
from benchmarks import machine
from benchmarks.packed import packed
from benchmarks.peers.venvs import REQUIREMENTS
from benchmarks.training.snapshots import save_parts
from snapensemble.trainer.data.readers import Split
from tests.factories import CLASSES, encoded, picture

FOLDER = Path(benchmarks.__file__).parent
ROOT = FOLDER.parent
APPS = "benchmarks.peers.apps."  # programs for the Python of a peer's own environment


def is_program(file: Path) -> bool:
    """Whether `python -m` does something with a module."""
    return any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        for node in ast.parse(file.read_text()).body
    )


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


MODULES = {module_of(file): file for file in sorted(FOLDER.rglob("*.py"))}
PROGRAMS = [name for name, file in MODULES.items() if is_program(file) and APPS not in name]


@pytest.fixture(autouse=True)
def _left_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Results go to a folder of the test, and programs are found by those that they start."""
    monkeypatch.setattr(machine, "RESULTS", tmp_path / "results")
    monkeypatch.chdir(ROOT)


def start(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> object:
    """`python -m NAME ARGUMENTS` in this process; the exit code."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    monkeypatch.delitem(sys.modules, name, raising=False)  # or runpy warns
    try:
        runpy.run_module(name, run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    return 0


def test_there_are_benchmarks() -> None:
    assert len(PROGRAMS) > 20 and len(MODULES) > len(PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_benchmark_says_what_it_takes(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(monkeypatch, name, "--help") == 0
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.parametrize("name", [name for name in MODULES if name not in PROGRAMS])
def test_what_benchmarks_share_can_be_imported(name: str) -> None:
    """A peer's app is imported as far as its packages are here; what follows only mypy sees."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert name.startswith(APPS) and error.name is not None
        package = error.name.partition(".")[0]
        pins = "\n".join(file.read_text() for file in REQUIREMENTS.glob("*.txt"))
        assert f"{package}==" in pins, f"{name} imports {package}, which no peer's environment has"


# The smallest settings of what is quick, and needs neither wrk nor a container engine.
SMALLEST: dict[str, tuple[str, ...]] = {
    "augmentation_sheet": ("--folder", "PICTURES", "--out", "SHEET"),
    "cascade_stages": (
        "--rounds", "1", "--seconds", "0.02", "--members", "2", "--images", "50",
    ),
    "forecast": (),
    "gpu": ("--data", "PACKED", "--work", "WORK", "--runs", "1", "--smallest"),
    "int8_networks": ("RUN", "--rounds", "1"),
    "last_connections": ("BUNDLE", "--image", "PICTURE", "--rounds", "1"),
    "leaving_clients": ("BUNDLE", "--clients", "20", "--seconds", "0.1"),
    "packed": ("--data", "DATA", "--out", "FILE", "--quality", "lossless"),
    "odd_images": ("BUNDLE", "--files", "PICTURES"),
    "novelty": ("DIGITS", "--other", "OTHERS", "--images", "100"),
    "overload": ("BUNDLE", "--seconds", "0.2"),
    "predict_many": ("BUNDLE", "--count", "40", "--rounds", "1", "--connections", "4"),
    "promises": ("RUN", "--splits", "2", "--sizes", "100"),
    "request_cost": ("BUNDLE", "--repetitions", "1", "--requests", "32"),
    "selection": ("RUN",),
    "shared_trunk": ("SHARED", "--rounds", "1", "--seconds", "0.02", "--images", "50"),
    "soak": ("BUNDLE", "--minutes", "0.005"),
    "training.speed": (
        "--data", "DATA", "--model", "small", "--batch-size", "8", "--threads", "1",
        "--images", "24", "--timed-epochs", "2", "--workers", "0", "--no-torchensemble",
    ),
}  # fmt: skip
LONG = {"cascade_stages", "gpu", "int8_networks", "overload", "training.speed"}
FIXTURES = {
    "RUN": "digits_run",
    "BUNDLE": "bundle_dir",
    "DIGITS": "digits_bundle",
    "OTHERS": "others",
    "SHARED": "trunk_dir",
    "PICTURES": "pictures",
    "PICTURE": "picture_file",
    "SHEET": "sheet",
    "DATA": "data",
    "PACKED": "packed_file",
    "WORK": "tmp_path",
    "FILE": "npz_file",
}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with one picture."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "noise.png").write_bytes(encoded(picture()))
    return folder


@pytest.fixture
def picture_file(pictures: Path) -> Path:
    return pictures / "noise.png"


@pytest.fixture
def others(pictures: Path) -> str:
    return f"noise={pictures}"


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    return tmp_path / "sheet.png"


@pytest.fixture
def data(tmp_path: Path) -> str:
    """A data set of noise in three classes."""
    rng = np.random.default_rng(0)
    file = tmp_path / "data.npz"
    save_parts(
        file,
        CLASSES,
        **{
            name: Split(
                rng.integers(0, 256, (count, 3, 8, 8), np.uint8), np.arange(count) % len(CLASSES)
            )
            for name, count in (("train", 48), ("val", 12), ("test", 12))
        },
    )
    return f"npz:{file}"


@pytest.fixture
def npz_file(tmp_path: Path) -> Path:
    return tmp_path / "file.npz"


@pytest.fixture
def packed_file(data: str, tmp_path: Path) -> Path:
    """The same, packed."""
    packed(data, tmp_path / "packed.npz")
    return tmp_path / "packed.npz"


@pytest.fixture
def _threads_as_before() -> Iterator[None]:
    """Put back the threads, which benchmarks of training choose for the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in SMALLEST],
)
@pytest.mark.usefixtures("_threads_as_before")
def test_a_benchmark_runs(
    name: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [
        request.getfixturevalue(FIXTURES[word]) if word in FIXTURES else word
        for word in SMALLEST[name]
    ]
    (program,) = (program for program in PROGRAMS if program.endswith(f".{name}"))
    assert start(monkeypatch, program, *arguments) == 0
    assert capsys.readouterr().out
