"""Who a bundle is from: a signature over every file of it, in the OpenSSF's format.

`model.sig` in the bundle is what `model_signing sign key` writes, and `model_signing verify key`
reads it; see https://github.com/sigstore/model-transparency. Needs the extra `signing`.
"""

import base64
import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snapensemble.contracts.bundle import BUNDLE_FILE, read_bundle
from snapensemble.contracts.errors import InvalidConfig, InvalidManifest, SnapensembleError
from snapensemble.contracts.files import read_regular, read_verified, write_atomically

SIGNATURE_FILE = "model.sig"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 # mkdtemp makes a private directory in it
MAX_SIGNATURE_BYTES = 8 * 2**20
MAX_KEY_BYTES = 2**16
_A_KEY = (
    "expected a PEM file with a key of the curve P-256, P-384 or P-521, as made by "
    "`openssl ecparam -name prime256v1 -genkey -noout -out private.pem` and "
    "`openssl ec -in private.pem -pubout -out public.pem`"
)


class InvalidSignature(SnapensembleError):
    """A bundle that is not signed, not by this key, or that was changed since."""


def sign_bundle(bundle_dir: Path, key: Path, password: str | None = None) -> Path:
    """Sign a whole bundle; returns the file that holds the signature.

    Args:
        bundle_dir: made by `snapensemble export`; whatever lies in it is signed.
        key: the private key, PEM.
        password: of the key, if it is encrypted.

    Raises:
        InvalidManifest: the bundle is not whole, and nobody should vouch for it.
        InvalidSignature: the bundle holds links, or something that is no file.
        InvalidConfig: the package is not installed, or the key cannot be used.
    """
    model_signing = _library()
    bundle = read_bundle(bundle_dir)
    bundle_dir = bundle_dir.resolve()  # the library takes no link
    for part in bundle.parts:
        read_verified(bundle_dir, part.file, part.sha256, part.size)
    config = model_signing.signing.Config().set_hashing_config(_all_files(model_signing))
    _read_key(key)
    try:
        config.use_elliptic_key_signer(
            private_key=key, password=None if password is None else password.encode()
        )
    except Exception as error:  # cryptography raises a class per kind of file
        raise InvalidConfig(f"{key}: cannot sign with it: {error}; {_A_KEY}") from error
    with _aside() as directory:
        written = directory / SIGNATURE_FILE
        try:
            config.sign(bundle_dir, written)
        except ValueError as error:  # a link, a FIFO
            raise InvalidSignature(f"{bundle_dir}: cannot be signed: {error}") from error
        write_atomically(bundle_dir / SIGNATURE_FILE, written.read_bytes())
    return bundle_dir / SIGNATURE_FILE


def verify_bundle(bundle_dir: Path, key: Path) -> str:
    """Check that a key has signed all files of a bundle, and that there are no others.

    No member is loaded, and none is parsed.

    Args:
        bundle_dir: holds `model.sig`.
        key: the public key, PEM.

    Returns:
        The SHA-256 of `ensemble.json` that was signed: whoever reads the bundle afterwards and
        expects it gets what was signed, whatever is done to the directory meanwhile.

    Raises:
        InvalidSignature: the bundle is not signed, not by this key, or was changed.
        InvalidConfig: the package is not installed, or the key cannot be used.
    """
    model_signing = _library()
    signature = _read_signature(bundle_dir)
    bundle_dir = bundle_dir.resolve()  # the library takes no link
    _read_key(key)
    try:
        config = (
            model_signing.verifying.Config()
            .set_hashing_config(_all_files(model_signing))
            .use_elliptic_key_verifier(public_key=key)
        )
    except Exception as error:  # cryptography raises a class per kind of file
        raise InvalidConfig(f"{key}: cannot verify with it: {error}; {_A_KEY}") from error
    with _aside() as directory:
        # A copy: what is verified and what is read below are the same bytes.
        copy = directory / SIGNATURE_FILE
        copy.write_bytes(signature)
        try:
            config.verify(bundle_dir, copy)
        except Exception as error:  # from the signature to the JSON inside, anything may be wrong
            raise InvalidSignature(
                f"{bundle_dir}: the signature does not hold: {_reason(error)}; sign the bundle "
                f"again if the change is meant, or give the key that signed it instead of {key}"
            ) from error
    return _signed_manifest(bundle_dir, signature)


@contextlib.contextmanager
def _aside() -> Iterator[Path]:
    """A private directory, in memory where there is such a place: a container may have no other."""
    is_usable = SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK)
    try:
        directory = tempfile.TemporaryDirectory(dir=SHARED_MEMORY if is_usable else None)
    except OSError as error:
        raise InvalidConfig(
            f"signatures need a directory for a moment: {error}; make /dev/shm or TMPDIR writable"
        ) from error
    with directory as name:
        yield Path(name)


def _reason(error: Exception) -> str:
    """The reason in one line: the library prints digests as bytes, and cryptography nothing."""
    text = re.sub(r": Expected .*", "", str(error), flags=re.DOTALL)
    return text[:300] or "it is not by this key"


def _library() -> Any:
    try:
        import model_signing
    except ModuleNotFoundError as error:
        raise InvalidConfig(
            f"the package {error.name!r} is not installed; install snapensemble[signing] to sign "
            "bundles and to verify signatures"
        ) from error
    return model_signing


def _all_files(model_signing: Any) -> Any:
    """The setting to hash all files, where the library would leave out those of git."""
    return model_signing.hashing.Config().set_ignored_paths(
        paths=[SIGNATURE_FILE], ignore_git_paths=False
    )


def _read_key(key: Path) -> None:
    try:
        read_regular(key, MAX_KEY_BYTES)
    except OSError as error:
        raise InvalidConfig(f"{key}: {error.strerror or error}; {_A_KEY}") from error
    except InvalidManifest as error:
        raise InvalidConfig(f"{error}; {_A_KEY}") from error


def _read_signature(bundle_dir: Path) -> bytes:
    try:
        return read_regular(bundle_dir / SIGNATURE_FILE, MAX_SIGNATURE_BYTES)
    except OSError as error:
        raise InvalidSignature(
            f"{bundle_dir / SIGNATURE_FILE}: {error.strerror or error}; a signed bundle is "
            "expected: `snapensemble sign BUNDLE_DIR --key PRIVATE.pem` signs one"
        ) from error
    except InvalidManifest as error:
        raise InvalidSignature(str(error)) from error


def _signed_manifest(bundle_dir: Path, signature: bytes) -> str:
    """The hash of the bundle's manifest in a signature that has been verified."""
    envelope = json.loads(signature)["dsseEnvelope"]
    predicate = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
    for resource in predicate["resources"]:
        if resource["name"] == BUNDLE_FILE and resource["algorithm"] == "sha256":
            return str(resource["digest"])
    raise InvalidSignature(
        f"{bundle_dir / SIGNATURE_FILE} does not sign {BUNDLE_FILE} as a whole with SHA-256; sign "
        "the bundle with `snapensemble sign`"
    )
