"""`snapensemble serve --expect-bundle`: the bundle that was released, and no other."""

from pathlib import Path

import pytest

from snapensemble.contracts.bundle import BUNDLE_FILE
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.files import sha256_of
from snapensemble.server_process import server_process
from snapensemble.serving.cli import build_settings
from tests.forks import run
from tests.serving.process.test_server import is_well

ONE_WORKER = ("--port", "0")
TWO_WORKERS = ("--port", "0", "--workers", "2", "--threads", "1")


def hash_of(bundle_dir: Path) -> str:
    return sha256_of((bundle_dir / BUNDLE_FILE).read_bytes())


@pytest.mark.parametrize("flags", [ONE_WORKER, TWO_WORKERS])
def test_the_bundle_that_is_expected_is_served(bundle_dir: Path, flags: tuple[str, ...]) -> None:
    expected = hash_of(bundle_dir).upper()  # some tools print it so
    with server_process(bundle_dir, *flags, "--expect-bundle", expected) as (_, url):
        assert is_well(url)


@pytest.mark.parametrize("flags", [ONE_WORKER, TWO_WORKERS])
def test_another_bundle_is_not_served(bundle_dir: Path, flags: tuple[str, ...]) -> None:
    expected = "0" * 64
    found = run("serve", bundle_dir, *flags, "--expect-bundle", expected)
    assert found.returncode == 2 and found.stdout == ""
    assert f"{BUNDLE_FILE}: sha256 is {hash_of(bundle_dir)}, expected {expected}" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_bundle_whose_manifest_was_rewritten_is_not_served(bundle_dir: Path) -> None:
    expected = hash_of(bundle_dir)
    manifest = bundle_dir / BUNDLE_FILE
    manifest.write_text(manifest.read_text().replace('"bee"', '"fly"'))
    found = run("serve", bundle_dir, *ONE_WORKER, "--expect-bundle", expected)
    assert found.returncode == 2 and "another bundle, or a changed one" in found.stderr


def test_the_hash_can_be_a_variable(bundle_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAPENSEMBLE_EXPECT_BUNDLE", "0" * 64)
    assert run("serve", bundle_dir, *ONE_WORKER).returncode == 2


@pytest.mark.parametrize("text", ["", "0" * 12, "g" * 64, f"sha256:{'0' * 64}"])
def test_what_is_no_hash_is_named(text: str) -> None:
    with pytest.raises(
        InvalidConfig, match="^--expect-bundle: expected 64 hexadecimal digits, as sha256sum"
    ):
        build_settings({"expect_bundle": text})
