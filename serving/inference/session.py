"""ONNX Runtime sessions, one per ONNX file, each with one thread; and which members fail.

A part is an ONNX file of a bundle: the trunk that the members share, or a member.
"""

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.bundle import (
    CLASS_BIAS,
    CLASS_DIRECTIONS,
    CLASS_WEIGHTS,
    MAPS,
    BundleManifest,
    Member,
    Trunk,
)
from snapensemble.contracts.errors import InvalidConfig, InvalidManifest
from snapensemble.contracts.files import read_verified
from snapensemble.contracts.novelty import distances
from snapensemble.contracts.sessions import PROVIDERS, Provider, open_session
from snapensemble.serving.inference.batch import BatchReport, Inputs
from snapensemble.serving.inference.explain import Maps

Value = tuple[str, str, tuple[int, ...]]  # name, type and shape of an image's part
TOO_MANY = 3  # micro-batches in a row; one alone may be bad luck


class PartSession:
    """One part of a bundle, ready to run; several threads may call it at once."""

    def __init__(self, part: Trunk | Member, session: Any) -> None:
        self.name = part.name
        self.providers: list[str] = session.get_providers()  # those that it really uses
        self._session = session
        ((self._input, _, self._takes),) = map(_signature, session.get_inputs())
        self._output, *more = (value.name for value in session.get_outputs())
        shapes = {value.name: tuple(value.shape) for value in session.get_outputs()}
        self.maps_shape: tuple[int, ...] | None = shapes[MAPS][1:] if MAPS in more else None
        self.has_class_weights = CLASS_WEIGHTS in more
        self.has_directions = CLASS_DIRECTIONS in more

    def __call__(self, inputs_B: Inputs) -> NDArray[np.float32]:
        """What the part gives for uint8 images, or for the trunk's features."""
        outputs_B: NDArray[np.float32]
        (outputs_B,) = self._session.run([self._output], {self._input: inputs_B})
        return outputs_B

    def with_maps(self, inputs_B: Inputs) -> tuple[NDArray[np.float32], Maps | None]:
        """What the part gives, and its own last feature maps_BChw if it has any."""
        if self.maps_shape is None:
            return self(inputs_B), None
        outputs_B, maps_BChw = self._session.run([self._output, MAPS], {self._input: inputs_B})
        return outputs_B, maps_BChw

    def evidence(self, maps_Chw: Maps, rows: slice | list[int]) -> Maps:
        """evidence_nhw of a member for some classes: its last layer's answer for each position."""
        weights_KC, bias_K = self._last_layer
        evidence_nhw = np.tensordot(weights_KC[rows], maps_Chw, axes=1)
        evidence_nhw += bias_K[rows][:, None, None]
        return evidence_nhw

    def distance(self, maps_Chw: Maps) -> float:
        """How far an image is from what taught, by its feature maps or those of its trunk."""
        means_1C = maps_Chw.mean(axis=(1, 2))[None]
        return float(distances(means_1C, self._directions_KC)[0])

    @cached_property
    def _last_layer(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """class_weights_KC and class_bias_K, which only those need who ask for maps."""
        weights_KC, bias_K = self._constants(CLASS_WEIGHTS, CLASS_BIAS)
        return weights_KC, bias_K

    @cached_property
    def _directions_KC(self) -> NDArray[np.float32]:  # noqa: N802 # a shape suffix
        """The directions of the classes' features, which only those need who ask for novelty."""
        (directions_KC,) = self._constants(CLASS_DIRECTIONS)
        return directions_KC

    def _constants(self, *names: str) -> list[NDArray[np.float32]]:
        """Outputs that depend on no input."""
        kind = np.uint8 if self._input == "images" else np.float32
        nothing = np.zeros((1, *self._takes), kind)
        found: list[NDArray[np.float32]] = self._session.run(list(names), {self._input: nothing})
        return found


def load_part(
    bundle_dir: Path,
    bundle: BundleManifest,
    part: Trunk | Member,
    providers: Sequence[Provider] = ("cpu",),
) -> PartSession:
    """A session over the verified bytes of a part's file.

    Args:
        bundle_dir: where the file is.
        bundle: the manifest, which says what each part must take and give.
        part: the part to load.
        providers: see `open_session`.

    Raises:
        InvalidConfig: a provider cannot be used on this machine.
        InvalidManifest: the file is absent, changed, no ONNX file, asks for more than its own
            bytes, or has another input or output than the bundle says.
    """
    data = read_verified(bundle_dir, part.file, part.sha256, part.size)
    try:
        session = open_session(data, providers)
    except Exception as error:  # ONNX Runtime raises a class per kind of failure
        raise InvalidManifest(f"{bundle_dir / part.file}: cannot load: {error}") from error
    # ONNX Runtime goes on without a provider that has no device or driver, and far more slowly.
    unused = [name for name in providers if PROVIDERS[name] not in session.get_providers()]
    if unused:
        raise InvalidConfig(
            f"--providers: {' and '.join(unused)} cannot be used here; ONNX Runtime's own messages "
            "are above: is there a device, and its driver?"
        )
    _check_contract(bundle_dir / part.file, session, expected_values(bundle, part))
    return PartSession(part, session)


def expected_values(bundle: BundleManifest, part: Trunk | Member) -> list[Value]:
    """What a part must take, and what it must give."""
    images = ("images", "tensor(uint8)", bundle.image.shape)
    logits = ("logits", "tensor(float)", (len(bundle.classes),))
    if bundle.trunk is None:
        return [images, logits]
    features = ("features", "tensor(float)", bundle.trunk.features)
    return [images, features] if isinstance(part, Trunk) else [features, logits]


def _check_contract(file: Path, session: Any, expected: list[Value]) -> None:
    inputs, (first, *more) = session.get_inputs(), session.get_outputs()
    found = [_signature(value) for value in (*inputs, first)]
    if found != expected or any(isinstance(v.shape[0], int) for v in (*inputs, first)):
        raise InvalidManifest(
            f"{file}: the graph has {found}, the bundle says {expected}, each with a batch "
            "dimension of any size in front"
        )
    _check_maps(file, more, expected)


def _check_maps(file: Path, outputs: Sequence[Any], expected: list[Value]) -> None:
    """Check what explains a part's answers, if anything does: its outputs after the first one.

    A trunk has maps whose means are its features. A member has the weights and the bias of its last
    layer, for maps of its own or for those of the trunk.
    """
    (_, _, takes), (kind, _, gives) = expected
    found = {v.name: tuple(v.shape) for v in outputs if v.type == "tensor(float)"}
    maps = found.get(MAPS)
    channels = takes if maps is None else maps[1:2]
    wanted = {} if maps is None else {MAPS: maps}
    if kind == "logits" and outputs:
        wanted |= {CLASS_WEIGHTS: (*gives, *channels), CLASS_BIAS: gives}
        if CLASS_DIRECTIONS in found:
            wanted[CLASS_DIRECTIONS] = (*gives, *channels)
    batch_and_sizes = [str, int, int, int]
    if (
        found != wanted
        or len(found) != len(outputs)
        or (maps is not None and [type(size) for size in maps] != batch_and_sizes)
        or (kind == "features" and outputs and channels != gives)
    ):
        raise InvalidManifest(
            f"{file}: after its first output the graph gives {[_whole(v) for v in outputs]}; "
            f"expected nothing, or of {MAPS} [batch, channels, height, width], {CLASS_WEIGHTS} "
            f"[classes, channels], {CLASS_BIAS} [classes] and {CLASS_DIRECTIONS} [classes, "
            "channels] those that the part has, all float"
        )


def _whole(value: Any) -> Value:
    return value.name, value.type, tuple(value.shape)


def _signature(value: Any) -> Value:
    return value.name, value.type, tuple(value.shape[1:])


class MemberHealth:
    """Counts how often each member, or the trunk, has failed since it last answered.

    Safe from any thread.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        """Begin to count for these names by place; see `names_by_place`."""
        self._names = names
        self._failures = dict.fromkeys(names, 0)
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
            self._names[place] for place, failures in self._failures.items() if failures >= TOO_MANY
        ]
