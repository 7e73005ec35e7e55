"""The health check of the image asks where the server of the same environment listens."""

import runpy
import tempfile
from pathlib import Path

import pytest

from snapensemble.server_process import server_process

main = runpy.run_path(str(Path(__file__).parents[2] / "docker" / "healthcheck.py"))["main"]
NAMES = ("SNAPENSEMBLE_UDS", "SNAPENSEMBLE_HOST", "SNAPENSEMBLE_PORT", "PORT")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("variable", ["PORT", "SNAPENSEMBLE_PORT"])
def test_it_finds_a_port(bundle_dir: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    with server_process(bundle_dir, "--port", "0") as (_, url):
        monkeypatch.setenv("SNAPENSEMBLE_HOST", "0.0.0.0")
        monkeypatch.setenv(variable, url.rpartition(":")[2])
        assert main() == 0
    assert main() == 1


def test_it_finds_a_path(
    bundle_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        monkeypatch.setenv("SNAPENSEMBLE_UDS", f"{directory}/s.sock")
        monkeypatch.setenv("PORT", "1")  # says nothing where there is a path
        with server_process(bundle_dir):
            assert main() == 0
        assert main() == 1
    assert f"{directory}/s.sock: " in capsys.readouterr().out
