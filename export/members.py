"""Snapshots as ONNX members, with the answers of each to the validation images.

Shapes: M members, N validation images, C channels, H height, W width, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from snapensemble.contracts.bundle import (
    CLASS_WEIGHTS,
    MAPS,
    Member,
    ParityRecord,
    Precision,
    Price,
    Trunk,
)
from snapensemble.contracts.files import write_atomically
from snapensemble.contracts.metrics import Floats, softmax
from snapensemble.contracts.process import noting_progress
from snapensemble.export.acceptance import QuantizationRefused
from snapensemble.export.candidates import Candidate, Pool
from snapensemble.export.int8.quantize import to_int8
from snapensemble.export.onnx_export import Converter, member_metadata, trunk_metadata, value_of
from snapensemble.export.onnx_graph import operations
from snapensemble.export.parity import ensemble_parity, parity, run_file, run_members
from snapensemble.export.selection import Chosen
from snapensemble.trainer.models.tuning import divided

TRUNK_FILE = "trunk.onnx"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Exported:
    """A member that is not written yet."""

    candidate: Candidate
    weight: float
    precision: Precision
    onnx_file: bytes
    probs_NK: Floats  # this file's answers to the validation images


@dataclass(frozen=True, slots=True)
class ExportedTrunk:
    """A trunk that is not written yet."""

    precision: Precision
    onnx_file: bytes

    @property
    def features(self) -> tuple[int, ...]:
        """The shape of what it gives for an image."""
        return value_of(onnx.load_from_string(self.onnx_file).graph.output[0])[2]


@dataclass(frozen=True, slots=True)
class Ensemble:
    """The members of a bundle in one precision, and the trunk before them if they share one."""

    members: tuple[Exported, ...]
    trunk: ExportedTrunk | None = None

    @property
    def probs_MNK(self) -> Floats:  # noqa: N802 # a shape suffix
        """The members' answers to the validation images."""
        return np.stack([member.probs_NK for member in self.members])

    @property
    def precision(self) -> Precision:
        """int8 if anything in it is."""
        precisions = {member.precision for member in self.members}
        if self.trunk is not None:
            precisions.add(self.trunk.precision)
        return "int8" if "int8" in precisions else "fp32"

    @property
    def unexplained(self) -> list[str]:
        """The members whose answers no class activation map can explain, by name."""
        shared = set() if self.trunk is None else _outputs(self.trunk.onnx_file)
        return [
            member.candidate.name
            for member in self.members
            if not {MAPS, CLASS_WEIGHTS} <= shared | _outputs(member.onnx_file)
        ]

    @property
    def first_chain(self) -> tuple[bytes, ...]:
        """The files that one answer of the first member takes."""
        member = self.members[0].onnx_file
        return (member,) if self.trunk is None else (self.trunk.onnx_file, member)

    def answers(self, images_NCHW: NDArray[np.uint8]) -> Floats:
        """probs_MNK for any images, by ONNX Runtime."""
        trunk = None if self.trunk is None else self.trunk.onnx_file
        return softmax(run_members([m.onnx_file for m in self.members], images_NCHW, trunk))

    def price(self) -> Price:
        """What an image takes; of fp32 files, since int8 ones compute a little more."""
        return Price(
            trunk=0 if self.trunk is None else operations(self.trunk.onnx_file),
            members=tuple(operations(member.onnx_file) for member in self.members),
        )


def _outputs(onnx_file: bytes) -> set[str]:
    return {value.name for value in onnx.load_from_string(onnx_file).graph.output}


def shared_tune(candidates: Sequence[Candidate]) -> str | None:
    """Where the members of a shared trunk begin; None if each is exported whole.

    Several members share one if their runs trained the same part of the same network behind the
    very same trunk.
    """
    runs = [candidate.run for candidate in candidates]
    trunks = {
        (run.training.model, run.training.tune, None if run.trunk is None else run.trunk.sha256)
        for run in runs
    }
    if len(runs) < 2 or len(trunks) > 1 or runs[0].trunk is None:
        return None
    return runs[0].training.tune


def convert(
    pool: Pool, chosen: Chosen, images_NCHW: NDArray[np.uint8], say: Say
) -> tuple[Ensemble, ParityRecord]:
    """Convert the chosen snapshots in fp32, and compare each and their average with torch.

    Raises:
        InvalidManifest: a snapshot is damaged.
        InvalidConfig: a network needs what is not installed.
        ParityFailed: ONNX Runtime answers differently.
    """
    candidates = [pool.candidates[index] for index in chosen.indices]
    networks = [candidate.network() for candidate in candidates]  # what is missing is missed now
    converter, tune, trunk = Converter(pool.first_run.image), shared_tune(candidates), None
    if tune is not None:
        say("converting the trunk that the members share")
        front, _ = divided(networks[0], tune)
        file = converter.convert(
            front, trunk_metadata(pool.first_run), architecture="trunk", gives="features"
        )
        trunk = ExportedTrunk("fp32", file)
    architectures = {candidate.run.training.model for candidate in candidates}
    say(f"converting {len(candidates)} members of {' and '.join(sorted(architectures))}")
    exported, compared = [], []
    for place, network in enumerate(noting_progress(networks, "members are converted", say)):
        candidate, weight = candidates[place], chosen.weights[place]
        run = candidate.run
        part = network if tune is None else divided(network, tune)[1]
        metadata = member_metadata(run, candidate.snapshot, member=candidate.name)
        if candidate.offsets_K is not None:
            metadata["class_prior"] = "uniform"
        onnx_file = converter.convert(
            part,
            metadata,
            architecture=run.training.model,
            features=None if trunk is None else trunk.features,
            offsets_K=candidate.offsets_K,
        )
        chain = (onnx_file,) if trunk is None else (trunk.onnx_file, onnx_file)
        compared.append(
            parity(
                network,
                chain,
                images_NCHW,
                what=candidate.name,
                offsets_K=candidate.offsets_K,
            )
        )
        # The run has kept torch's answers; ONNX Runtime has just been found to give the same.
        probs_NK = pool.probs_SNK[chosen.indices[place]]
        exported.append(Exported(candidate, weight, "fp32", onnx_file, probs_NK))
    fp32 = Ensemble(tuple(exported), trunk)
    if unexplained := fp32.unexplained:
        say(
            f"no class activation maps, so ?explain will be refused: {', '.join(unexplained)} of "
            f"{' and '.join(sorted(architectures))}, which does not end in a mean over height and "
            "width and one linear layer"
        )
    return fp32, ensemble_parity(compared, chosen.weights)


def in_int8(
    fp32: Ensemble,
    calibration_NCHW: NDArray[np.uint8],
    val_NCHW: NDArray[np.uint8],
    say: Say,
) -> Ensemble:
    """The same trunk and members in int8, with the members' answers to the validation images.

    Members behind a trunk are calibrated on what it gives in int8. One that is nothing but a last
    layer, which is no faster in int8, stays as it is.

    Raises:
        QuantizationRefused: nothing in a network can be computed in int8.
    """
    trunk: ExportedTrunk | None = None
    inputs_N: NDArray[np.uint8] | NDArray[np.float32] = calibration_NCHW
    if fp32.trunk is not None:
        trunk = ExportedTrunk("int8", to_int8(fp32.trunk.onnx_file, calibration_NCHW))
        inputs_N = run_file(trunk.onnx_file, calibration_NCHW)
    members = []
    for member in noting_progress(fp32.members, "members are quantised", say):
        try:
            onnx_file = to_int8(member.onnx_file, inputs_N)
        except QuantizationRefused:
            if trunk is None:
                raise
            members.append(member)
        else:
            members.append(replace(member, precision="int8", onnx_file=onnx_file))
    int8 = Ensemble(tuple(members), trunk)
    say(f"asking them in int8 about {len(val_NCHW):,} validation images")
    return replace(
        int8,
        members=tuple(
            replace(member, probs_NK=probs_NK)
            for member, probs_NK in zip(members, int8.answers(val_NCHW), strict=True)
        ),
    )


def write_trunk(trunk: ExportedTrunk | None, directory: Path) -> Trunk | None:
    """Write the trunk's file, if there is one; the manifest's entry for it comes back."""
    if trunk is None:
        return None
    return Trunk(
        file=TRUNK_FILE,
        sha256=write_atomically(directory / TRUNK_FILE, trunk.onnx_file),
        size=len(trunk.onnx_file),
        precision=trunk.precision,
        features=trunk.features,
    )


def write_members(exported: Sequence[Exported], directory: Path) -> tuple[Member, ...]:
    """Write the files under `members/`; the manifest's entries for them come back."""
    (directory / "members").mkdir()
    return tuple(_write(member, directory) for member in exported)


def _write(exported: Exported, directory: Path) -> Member:
    name, snapshot = exported.candidate.name, exported.candidate.snapshot
    file = f"members/{name}.onnx"
    return Member(
        name=name,
        file=file,
        sha256=write_atomically(directory / file, exported.onnx_file),
        size=len(exported.onnx_file),
        weight=exported.weight,
        run=exported.candidate.run_number,
        cycle=snapshot.cycle,
        weights=snapshot.weights,
        step=snapshot.step,
        precision=exported.precision,
        val=snapshot.val,
    )
