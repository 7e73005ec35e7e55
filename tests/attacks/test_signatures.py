"""A signed bundle is served as it was signed, or not at all."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from snapensemble.cli import main
from snapensemble.contracts.bundle import BUNDLE_FILE
from snapensemble.contracts.errors import InvalidConfig, InvalidManifest
from snapensemble.contracts.files import sha256_of
from snapensemble.contracts.signatures import (
    SIGNATURE_FILE,
    InvalidSignature,
    sign_bundle,
    verify_bundle,
)
from snapensemble.server_process import server_process
from snapensemble.serving.cli import build_settings, expected_sha256, looking
from snapensemble.serving.inference.engine import load_engine
from tests.factories import linear_member, make_bundle
from tests.forks import run
from tests.serving.process.test_server import is_well

PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
PUBLIC = serialization.PublicFormat.SubjectPublicKeyInfo


def write_keys(directory: Path, key: object, password: bytes | None = None) -> tuple[Path, Path]:
    """A private and a public key as files."""
    directory.mkdir(parents=True, exist_ok=True)
    assert isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey)
    encryption = (
        serialization.NoEncryption()
        if password is None
        else serialization.BestAvailableEncryption(password)
    )
    (directory / "private.pem").write_bytes(key.private_bytes(PEM, PKCS8, encryption))
    (directory / "public.pem").write_bytes(key.public_key().public_bytes(PEM, PUBLIC))
    return directory / "private.pem", directory / "public.pem"


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path / "keys", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def signed(bundle_dir: Path, keys: tuple[Path, Path]) -> Path:
    (bundle_dir / "report").mkdir()
    (bundle_dir / "report" / "index.html").write_text("a page")
    sign_bundle(bundle_dir, keys[0])
    return bundle_dir


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_what_was_signed_is_known_by_the_hash_of_its_manifest(
    bundle_dir: Path, tmp_path: Path, curve: ec.EllipticCurve
) -> None:
    private, public = write_keys(tmp_path / "keys", ec.generate_private_key(curve))
    assert sign_bundle(bundle_dir, private) == bundle_dir / SIGNATURE_FILE
    assert verify_bundle(bundle_dir, public) == sha256_of((bundle_dir / BUNDLE_FILE).read_bytes())


def test_a_bundle_can_be_signed_again_moved_and_reached_through_a_link(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    sign_bundle(signed, keys[0])
    signed.rename(tmp_path / "released")
    (tmp_path / "current").symlink_to("released")
    verify_bundle(tmp_path / "current", keys[1])


def test_the_signature_is_one_that_the_openssf_tool_takes(
    signed: Path, keys: tuple[Path, Path]
) -> None:
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(signed)]
    command += ["--signature", str(signed / SIGNATURE_FILE), "--public_key", str(keys[1])]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_everything_else_passes_the_signature_over(signed: Path) -> None:
    with load_engine(signed) as engine:
        assert engine.bundle.name == "insects"


def member_changed(bundle: Path) -> None:
    (bundle / "members/cycle-00.onnx").write_bytes(linear_member(7))


def report_changed(bundle: Path) -> None:
    (bundle / "report" / "index.html").write_text("another page")


def manifest_changed(bundle: Path) -> None:
    manifest = bundle / BUNDLE_FILE
    manifest.write_text(manifest.read_text().replace('"bee"', '"fly"'))


def file_added(bundle: Path) -> None:
    (bundle / "report" / "new.html").write_text("")


def hidden_file_added(bundle: Path) -> None:
    (bundle / "members" / ".hidden").write_text("")


def git_file_added(bundle: Path) -> None:
    (bundle / ".gitattributes").write_text("")


def file_removed(bundle: Path) -> None:
    (bundle / "report" / "index.html").unlink()


def link_added(bundle: Path) -> None:
    (bundle / "report" / "link").symlink_to("index.html")


def linked_directory_added(bundle: Path) -> None:
    (bundle / "other").symlink_to("members")


def fifo_instead(bundle: Path) -> None:
    (bundle / "report" / "index.html").unlink()
    os.mkfifo(bundle / "report" / "index.html")


def signature_removed(bundle: Path) -> None:
    (bundle / SIGNATURE_FILE).unlink()


def signature_emptied(bundle: Path) -> None:
    (bundle / SIGNATURE_FILE).write_bytes(b"")


def signature_as_fifo(bundle: Path) -> None:
    (bundle / SIGNATURE_FILE).unlink()
    os.mkfifo(bundle / SIGNATURE_FILE)


def signature_huge(bundle: Path) -> None:
    with (bundle / SIGNATURE_FILE).open("ab") as file:
        file.truncate(1 << 40)


def payload_changed(bundle: Path) -> None:
    content = json.loads((bundle / SIGNATURE_FILE).read_text())
    content["dsseEnvelope"]["payload"] = "e30="
    (bundle / SIGNATURE_FILE).write_text(json.dumps(content))


def hint_removed(bundle: Path) -> None:
    content = json.loads((bundle / SIGNATURE_FILE).read_text())
    del content["verificationMaterial"]
    (bundle / SIGNATURE_FILE).write_text(json.dumps(content))


CHANGES: list[Callable[[Path], None]] = [
    member_changed,
    report_changed,
    manifest_changed,
    file_added,
    hidden_file_added,
    git_file_added,
    file_removed,
    link_added,
    linked_directory_added,
    fifo_instead,
    signature_removed,
    signature_emptied,
    signature_as_fifo,
    signature_huge,
    payload_changed,
    hint_removed,
]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_bundle_that_was_changed_is_refused(
    signed: Path, keys: tuple[Path, Path], change: Callable[[Path], None]
) -> None:
    change(signed)
    with pytest.raises(InvalidSignature):
        verify_bundle(signed, keys[1])


def test_a_signature_by_another_key_is_refused(signed: Path, tmp_path: Path) -> None:
    _, other = write_keys(tmp_path / "other", ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(InvalidSignature, match="does not hold.*instead of .*public.pem"):
        verify_bundle(signed, other)


def test_a_signature_by_another_key_that_claims_to_be_ours_is_refused(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    private, _ = write_keys(tmp_path / "other", ec.generate_private_key(ec.SECP256R1()))
    ours = json.loads((signed / SIGNATURE_FILE).read_text())["verificationMaterial"]
    sign_bundle(signed, private)
    content = json.loads((signed / SIGNATURE_FILE).read_text())
    content["verificationMaterial"] = ours
    (signed / SIGNATURE_FILE).write_text(json.dumps(content))
    with pytest.raises(InvalidSignature, match="it is not by this key"):
        verify_bundle(signed, keys[1])


def test_a_signature_of_another_bundle_is_refused(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    other = make_bundle(tmp_path / "other", [linear_member(5)])
    (other / SIGNATURE_FILE).write_bytes((signed / SIGNATURE_FILE).read_bytes())
    with pytest.raises(InvalidSignature, match="does not hold"):
        verify_bundle(other, keys[1])


def test_a_damaged_bundle_is_not_signed(bundle_dir: Path, keys: tuple[Path, Path]) -> None:
    member_changed(bundle_dir)
    with pytest.raises(InvalidManifest, match="sha256 is"):
        sign_bundle(bundle_dir, keys[0])
    assert not (bundle_dir / SIGNATURE_FILE).exists()


@pytest.mark.parametrize("change", [link_added, linked_directory_added, fifo_instead])
def test_a_bundle_with_what_is_no_file_is_not_signed(
    signed: Path, keys: tuple[Path, Path], change: Callable[[Path], None]
) -> None:
    change(signed)
    with pytest.raises(InvalidSignature, match="cannot be signed"):
        sign_bundle(signed, keys[0])


@pytest.mark.parametrize("content", [None, b"", b"no key", b"x" * 100_000])
def test_what_is_no_key_is_refused_with_how_to_make_one(
    signed: Path, tmp_path: Path, content: bytes | None
) -> None:
    key = tmp_path / "key.pem"
    if content is not None:
        key.write_bytes(content)
    for use in (sign_bundle, verify_bundle):
        with pytest.raises(InvalidConfig, match="openssl ecparam"):
            use(signed, key)


def test_a_key_of_another_kind_is_refused(signed: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path / "ed", ed25519.Ed25519PrivateKey.generate())
    with pytest.raises(InvalidConfig, match="curve P-256"):
        sign_bundle(signed, private)
    with pytest.raises(InvalidConfig, match="curve P-256"):
        verify_bundle(signed, public)


def test_an_encrypted_key_takes_its_password_from_the_environment(
    bundle_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    private, public = write_keys(tmp_path / "k", ec.generate_private_key(ec.SECP256R1()), b"open")
    assert main(["sign", str(bundle_dir), "--key", str(private)]) == 2
    monkeypatch.setenv("SNAPENSEMBLE_KEY_PASSWORD", "open")
    assert main(["sign", str(bundle_dir), "--key", str(private)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(bundle_dir / SIGNATURE_FILE)
    verify_bundle(bundle_dir, public)


def test_a_signature_is_verified_where_nothing_can_be_written(
    signed: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    verify_bundle(signed, keys[1])
    monkeypatch.setattr("snapensemble.contracts.signatures.SHARED_MEMORY", Path("/nowhere"))
    with pytest.raises(InvalidConfig, match="make /dev/shm or TMPDIR writable"):
        verify_bundle(signed, keys[1])


def test_without_the_package_the_extra_is_named(
    bundle_dir: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    for use, key in ((sign_bundle, keys[0]), (verify_bundle, keys[1])):
        with pytest.raises(InvalidConfig, match=r"install snapensemble\[signing\]"):
            use(bundle_dir, key)


def test_the_server_expects_what_is_signed_so_that_a_later_swap_is_noticed(
    signed: Path, keys: tuple[Path, Path]
) -> None:
    (planned,) = looking(signed, build_settings({"verify_key": str(keys[1])}))().models
    manifest_changed(signed)
    with pytest.raises(InvalidManifest, match="another bundle, or a changed one"):
        load_engine(signed, expected_sha256=planned.sha256)


def test_a_signed_bundle_that_is_not_the_expected_one_is_refused(
    signed: Path, keys: tuple[Path, Path]
) -> None:
    flags: dict[str, object] = {"verify_key": str(keys[1]), "expect_bundle": "0" * 64}
    with pytest.raises(InvalidConfig, match="--expect-bundle: the bundle that is signed"):
        expected_sha256(signed, build_settings(flags))


@pytest.mark.parametrize("flags", [(), ("--workers", "2", "--threads", "1")])
def test_a_signed_bundle_is_served_and_a_changed_one_is_not(
    signed: Path, keys: tuple[Path, Path], flags: tuple[str, ...]
) -> None:
    flags = ("--port", "0", "--verify-key", str(keys[1]), *flags)
    with server_process(signed, *flags) as (_, url):
        assert is_well(url)
    member_changed(signed)
    found = run("serve", signed, *flags)
    assert found.returncode == 2 and found.stdout == ""
    assert "the signature does not hold" in found.stderr and "Traceback" not in found.stderr
