"""ONNX Runtime sessions, one per member, each with one thread; and which members fail.

Shapes: B images, C channels, H height, W width, K classes.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.bundle import BundleManifest, Member
from snapensemble.contracts.errors import InvalidConfig, InvalidManifest
from snapensemble.contracts.files import read_verified
from snapensemble.contracts.sessions import PROVIDERS, Provider, open_session
from snapensemble.serving.inference.batch import BatchReport

Logits = NDArray[np.float32]
TOO_MANY = 3  # micro-batches in a row; one alone may be bad luck


class MemberSession:
    """One member, ready to run; several threads may call it at once."""

    def __init__(self, member: Member, session: Any) -> None:
        self.name = member.name
        self.providers: list[str] = session.get_providers()  # those that it really uses
        self._session = session

    def __call__(self, images_BCHW: NDArray[np.uint8]) -> Logits:
        """logits_BK for uint8 images."""
        logits_BK: Logits = self._session.run(["logits"], {"images": images_BCHW})[0]
        return logits_BK


def load_member(
    bundle_dir: Path,
    bundle: BundleManifest,
    member: Member,
    providers: Sequence[Provider] = ("cpu",),
) -> MemberSession:
    """A session over the verified bytes of a member's file.

    Args:
        bundle_dir: where the file is.
        bundle: the manifest, which says what a member must take and give.
        member: the member to load.
        providers: see `open_session`.

    Raises:
        InvalidConfig: a provider cannot be used on this machine.
        InvalidManifest: the file is absent, changed, no ONNX file, asks for more than its own
            bytes, or has another input or output than the bundle says.
    """
    data = read_verified(bundle_dir, member.file, member.sha256, member.size)
    try:
        session = open_session(data, providers)
    except Exception as error:  # ONNX Runtime raises a class per kind of failure
        raise InvalidManifest(f"{bundle_dir / member.file}: cannot load: {error}") from error
    # ONNX Runtime goes on without a provider that has no device or driver, and far more slowly.
    unused = [name for name in providers if PROVIDERS[name] not in session.get_providers()]
    if unused:
        raise InvalidConfig(
            f"--providers: {' and '.join(unused)} cannot be used here; ONNX Runtime's own messages "
            "are above: is there a device, and its driver?"
        )
    _check_contract(bundle_dir / member.file, session, bundle)
    return MemberSession(member, session)


def _check_contract(file: Path, session: Any, bundle: BundleManifest) -> None:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    found = [_signature(value) for value in (*inputs, *outputs)]
    expected = [
        ("images", "tensor(uint8)", bundle.image.shape),
        ("logits", "tensor(float)", (len(bundle.classes),)),
    ]
    if found != expected or any(isinstance(v.shape[0], int) for v in (*inputs, *outputs)):
        raise InvalidManifest(
            f"{file}: the graph has {found}, the bundle says {expected}, each with a batch "
            "dimension of any size in front"
        )


def _signature(value: Any) -> tuple[str, str, tuple[int, ...]]:
    return value.name, value.type, tuple(value.shape[1:])


class MemberHealth:
    """Counts how often each member has failed since it last answered. Safe from any thread."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._failures = [0] * len(names)
        self._lock = threading.Lock()

    def batch(self, report: BatchReport) -> None:
        """Take note of a finished micro-batch; members that it did not ask are not judged."""
        with self._lock:
            for member in report.members_answered:
                self._failures[member] = 0
            for member in report.members_failed:
                self._failures[member] += 1

    @property
    def failing(self) -> list[str]:
        """The names of members whose last few micro-batches have all failed."""
        return [
            name
            for name, failures in zip(self._names, self._failures, strict=True)
            if failures >= TOO_MANY
        ]
