"""load_engine(): a bundle directory -> an engine that answers images.

Shapes: M members, d members asked, N images, C channels, H height, W width, K classes.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.abstention import AbstentionPoint, AbstentionRecord
from snapensemble.contracts.bundle import BundleManifest, read_bundle
from snapensemble.contracts.cascade import CascadePoint, Mode
from snapensemble.contracts.cpu import cpu_budget
from snapensemble.contracts.errors import InvalidManifest
from snapensemble.contracts.metrics import Floats
from snapensemble.contracts.novelty import NoveltyThreshold
from snapensemble.contracts.pixels import MAX_PIXELS, SERVER_LIMITS
from snapensemble.contracts.prediction_sets import SetQuantile
from snapensemble.contracts.sessions import Provider, check_providers
from snapensemble.serving.errors import InvalidParameter, NotExplainable, Stopping
from snapensemble.serving.inference.admission import Admission, Forecast, MemoryBudget
from snapensemble.serving.inference.aggregate import summaries
from snapensemble.serving.inference.batch import BatchReport, Inputs, names_by_place
from snapensemble.serving.inference.costly import (
    LANE_PATIENCE_BYTES,
    LANE_PATIENCE_S,
    MEMORY_PATIENCE_S,
)
from snapensemble.serving.inference.explain import (
    NOTHING,
    PREDICTED,
    Asked,
)
from snapensemble.serving.inference.lanes import Lanes
from snapensemble.serving.inference.request import Answer, Image, PendingImage, Picture
from snapensemble.serving.inference.scheduler import Scheduler
from snapensemble.serving.inference.session import MemberHealth, PartSession, load_part


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How an engine uses its machine. Times in seconds."""

    threads: int | None = None  # lanes; the CPU budget of this process if not given
    max_batch_size: int = 32
    max_queue: int = 1024  # images accepted and not answered, see `Admission`
    max_wait_s: float = math.inf
    max_image_pixels: int = MAX_PIXELS
    max_held_bytes: int = 2 * SERVER_LIMITS.max_memory  # by all requests together
    max_picture_bytes: int = SERVER_LIMITS.max_memory  # the part of them for one picture
    providers: tuple[Provider, ...] = ("cpu",)


class Pool:
    """What all engines of a process share: the lanes, and the bytes that requests may hold.

    Args:
        limits: how to use the machine.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.lanes = Lanes(limits.threads or cpu_budget())
        self.memory = MemoryBudget(limits.max_held_bytes)


class Engine:
    """A verified, warmed up bundle and the scheduler that runs it. Use as a context manager.

    Args:
        bundle: the manifest, which says what the members are.
        scheduler: runs the members.
        admission: decides which requests come in.
        health: knows which members fail.
        point: the active point of the cascade; None if the bundle carries no cascade.
        providers: by member, and for the trunk, what runs it, as ONNX Runtime names it.
        maps: for each member the shape (C, h, w) of the feature maps that explain its answers; None
            if those of one member cannot be explained.
    """

    def __init__(
        self,
        bundle: BundleManifest,
        scheduler: Scheduler,
        admission: Admission,
        health: MemberHealth,
        point: CascadePoint | None = None,
        providers: Mapping[str, Sequence[str]] = MappingProxyType({}),
        maps: Sequence[tuple[int, ...]] | None = None,
    ) -> None:
        self.bundle = bundle
        self.scheduler = scheduler
        self.admission = admission
        self.health = health
        self.point = point
        self.providers = providers
        self.maps = maps
        self._trial: Answer | None = None

    def __enter__(self) -> "Engine":
        self.scheduler.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.scheduler.__exit__(*error)

    def submit(
        self, pictures: Sequence[Picture], mode: Mode = "full", asked: Asked | None = None
    ) -> list[Answer]:
        """Submit pictures in process; one future each, of the distributions of the members asked.

        Nothing is refused for overload; see `Scheduler.submit`.
        """
        self.check_mode(mode)
        images = [PendingImage(picture, asked=asked) for picture in pictures]
        self.scheduler.submit(images, mode)
        return [image.answer for image in images]

    def ask(self, images_NCHW: NDArray[np.uint8], mode: Mode = "full") -> list[Floats]:
        """Wait for probs_dK of each of any number of images."""
        return [answer.result() for answer in self.submit(list(images_NCHW), mode)]

    def predict(self, images_NCHW: NDArray[np.uint8]) -> Floats:
        """Wait for probs_MNK, the distributions of every member for any number of images."""
        return np.stack(self.ask(images_NCHW), axis=1)

    def try_out(self) -> None:
        """Ask all members about a black image, unless such a trial is under way.

        Nobody sends images to a server that is not ready, so it has to find out by itself when a
        member that failed answers again.
        """
        if self._trial is None or self._trial.done():
            with contextlib.suppress(Stopping):
                (self._trial,) = self.submit([np.zeros(self.bundle.image.shape, np.uint8)])

    def check_mode(self, mode: Mode) -> None:
        """Raise InvalidParameter if the bundle cannot answer in this mode."""
        if mode == "cascade" and self.point is None:
            raise InvalidParameter(
                "mode: this bundle carries no cascade; use mode full, or make a bundle with one: "
                "`snapensemble export RUN_DIR --out BUNDLE_DIR --cascade`"
            )

    def sets(self, mode: Mode) -> tuple[SetQuantile, ...]:
        """What makes prediction sets of a mode's answers; empty if the bundle carries nothing."""
        if mode == "cascade":
            return self.point.sets if self.point is not None else ()
        return self.bundle.calibration.sets if self.bundle.calibration is not None else ()

    def quantile(self, mode: Mode, coverage: float | None) -> SetQuantile | None:
        """What makes the smallest sets of a coverage; None without a coverage.

        Raises:
            InvalidParameter: the bundle carries no sets of this coverage.
        """
        if coverage is None:
            return None
        carried = [q for q in self.sets(mode) if q.method == "least_ambiguous"]
        for quantile in carried:
            if math.isclose(quantile.coverage, coverage):
                return quantile
        known = " and ".join(f"{q.coverage:g}" for q in carried) or "none"
        raise InvalidParameter(
            f"coverage: got {coverage:g}; the bundle's prediction sets in mode {mode}: {known}"
        )

    def promises(self, mode: Mode) -> AbstentionRecord | None:
        """What is promised of a mode's answers where the unsure ones are left out."""
        part = self.point if mode == "cascade" else self.bundle.calibration
        return None if part is None else part.abstention

    def abstention(self, mode: Mode, risk: float | None) -> AbstentionPoint | None:
        """Which images are answered so that at most a share of the answers is wrong; None: all.

        Raises:
            InvalidParameter: the bundle promises no such share.
        """
        if risk is None:
            return None
        promises = self.promises(mode)
        if promises is None:
            raise InvalidParameter(
                f"abstain: the bundle promises nothing in mode {mode}: an earlier version made it; "
                "export the run again"
            )
        point = promises.at(risk)
        if point is None:
            raise InvalidParameter(
                f"abstain: got {risk:g}; in mode {mode} the bundle promises at most "
                f"{promises.lowest_risk:.4g} wrong answers of 1, from the {promises.images:,} "
                "images that calibrated it; ask for no less, or train with a larger --val-fraction"
            )
        return point

    def novelty(self, false_alarms: float | None) -> NoveltyThreshold | None:
        """Beyond which distance a picture is called novel; None where nobody asks.

        Raises:
            InvalidParameter: the bundle promises no such share of false alarms.
        """
        if false_alarms is None:
            return None
        record = self.bundle.novelty
        if record is None:
            raise InvalidParameter(
                "novelty: the bundle does not know the pictures that taught; make one that does: "
                "`snapensemble export RUN_DIR --out BUNDLE_DIR --novelty`"
            )
        if not record.thresholds:
            raise InvalidParameter(
                f"novelty: the bundle promises no share of false alarms, as {record.images:,} "
                "images are too few for any; train with a larger --val-fraction, and export again"
            )
        threshold = record.at(false_alarms)
        if threshold is None:
            known = " and ".join(f"{each.false_alarms:g}" for each in record.thresholds)
            raise InvalidParameter(
                f"novelty: got {false_alarms:g}; the shares of false alarms that the bundle "
                f"promises, from {record.images:,} images: {known}"
            )
        return threshold

    def asked(self, explain: Sequence[str], novelty: float | None = None) -> Asked | None:
        """What feature maps have to say, by the words of a request; None if that is nothing.

        Args:
            explain: names of classes, `true` for the predicted one, `false` for none.
            novelty: the share of false alarms at which a picture is called novel.

        Raises:
            InvalidParameter: there is no such class, or no such promise.
            NotExplainable: the bundle gives no maps.
        """
        threshold = self.novelty(novelty)
        names = [name for name in explain if name not in (PREDICTED, NOTHING)]
        if not names and PREDICTED not in explain:
            return None if threshold is None else Asked(self.bundle, (), novelty=threshold)
        if self.maps is None:
            raise NotExplainable(
                "explain: a member of this bundle gives no feature maps; only networks that end in "
                "a mean over height and width and one linear layer do, in bundles of this version: "
                "ask without explain, or export such a network again"
            )
        for name in names:
            if name not in self.bundle.classes:
                some = ", ".join(map(repr, self.bundle.classes[:3]))
                raise InvalidParameter(
                    f"explain: there is no class {name!r}; expected {PREDICTED} for the predicted "
                    f"class, or one of {len(self.bundle.classes):,} classes: {some}, ..."
                )
        classes = tuple(map(self.bundle.classes.index, dict.fromkeys(names)))
        return Asked(self.bundle, classes, PREDICTED in explain, threshold)


def load_engine(
    bundle_dir: Path,
    limits: Limits = Limits(),  # frozen
    on_batch: Callable[[Mapping[int, str], BatchReport], None] = lambda *_: None,
    on_decode: Callable[[float], None] = lambda _: None,
    max_accuracy_drop: float | None = None,
    expected_sha256: str | None = None,
    decode: Callable[[bytes], Image] | None = None,
    pool: Pool | None = None,
) -> Engine:
    """Make an engine of a bundle: verify it, load its members and their trunk, and warm them up.

    Args:
        bundle_dir: made by `snapensemble export`.
        limits: how to use the machine.
        on_batch: called on a lane after each micro-batch, with what `names_by_place` gives; must be
            quick.
        on_decode: called on a lane after each picture, with seconds; must be quick, too.
        max_accuracy_drop: picks another point of the cascade than the bundle's own, fraction.
        expected_sha256: the SHA-256 of the bundle's manifest, if only one is right.
        decode: makes an image, on a lane and however long it takes, of what is submitted as bytes;
            if not given, they are a picture that comes from a stranger and may not take long.
        pool: what it shares with other engines, and their limits; its own, by `limits`, if not
            given.

    Raises:
        InvalidConfig: a provider cannot be used here.
        InvalidManifest: a file is absent, changed or not what the manifest says.
        InvalidParameter: a tolerance for a cascade that the bundle does not carry.
    """
    pool = pool or Pool(limits)
    limits, memory = pool.limits, pool.memory
    check_providers(limits.providers)
    bundle = read_bundle(bundle_dir, expected_sha256)
    cascade = bundle.cascade_at(max_accuracy_drop)
    if cascade is None and max_accuracy_drop is not None:
        raise InvalidParameter("max_accuracy_drop: this bundle carries no cascade to pick from")
    load = partial(load_part, bundle_dir, bundle, providers=limits.providers)
    trunk = None if bundle.trunk is None else load(bundle.trunk)
    members = [load(member) for member in bundle.members]
    shapes = maps_shapes(trunk, members)
    if bundle.novelty is not None and not (shapes and members[0].has_directions):
        raise InvalidManifest(
            f"{bundle_dir}: the manifest promises to find what is novel, but the first member has "
            "no class_directions, or a member no maps; export the run again"
        )
    warm_up(trunk, members, bundle, limits.max_batch_size)
    names = names_by_place(bundle)
    health = MemberHealth(names)

    forecast = Forecast(limits.max_wait_s)
    decode_costly = partial(
        bundle.image.decode,
        limits=SERVER_LIMITS.with_pixels(limits.max_image_pixels).within_memory(
            limits.max_picture_bytes
        ),
    )

    scheduler = Scheduler(
        members,
        trunk=trunk,
        lanes=pool.lanes,
        max_batch_size=limits.max_batch_size,
        decode=decode
        or partial(decode_costly, patience_s=LANE_PATIENCE_S, patience_bytes=LANE_PATIENCE_BYTES),
        decode_costly=decode_costly,
        hold_memory=partial(memory.held_when_free, within_s=MEMORY_PATIENCE_S),
        count_bytes=memory.count,
        leaves=None if cascade is None else cascade.leaves,
        summarize=partial(summaries, bundle=bundle),
        on_decode=on_decode,
        on_batch=(health.batch, partial(on_batch, names)),
        on_wait=forecast.came_out,
    )
    admission = Admission(
        scheduler,
        max_images=limits.max_queue,
        max_wait_s=limits.max_wait_s,
        memory=memory,
        forecast=forecast,
    )
    point = None if bundle.cascade is None else bundle.cascade.point(max_accuracy_drop)
    parts = members if trunk is None else [trunk, *members]
    providers = {part.name: part.providers for part in parts}
    return Engine(bundle, scheduler, admission, health, point, providers, shapes)


def maps_shapes(
    trunk: PartSession | None, members: Sequence[PartSession]
) -> list[tuple[int, ...]] | None:
    """For each member the shape of its feature maps, or the trunk's; None if one has none."""
    shared = None if trunk is None else trunk.maps_shape
    shapes = [member.maps_shape or shared for member in members if member.has_class_weights]
    known = [shape for shape in shapes if shape is not None]
    return known if len(known) == len(members) else None


def warm_up(
    trunk: PartSession | None,
    members: Sequence[PartSession],
    bundle: BundleManifest,
    max_batch_size: int,
) -> None:
    """Run each part on its largest batch, then on one image, so the first request is not slower.

    The largest comes first, so that the memory arena is taken once and not in steps.

    Raises:
        InvalidManifest: a part fails, or does not give numbers of the promised shape.
    """
    for size in sorted({max_batch_size, 1}, reverse=True):
        inputs_B: Inputs = np.zeros((size, *bundle.image.shape), dtype=np.uint8)
        if trunk is not None and bundle.trunk is not None:
            inputs_B = _try(f"the {trunk.name}", trunk, inputs_B, bundle.trunk.features)
        for member in members:
            _try(f"member {member.name}", member, inputs_B, (len(bundle.classes),))


def _try(
    name: str, part: PartSession, inputs_B: Inputs, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """What a part gives for a batch of black images, or for what the trunk gives for them."""
    try:
        outputs_B = part(inputs_B)
    except Exception as error:  # ONNX Runtime raises a class per kind of failure
        raise InvalidManifest(f"{name} cannot run: {error}") from error
    expected = (len(inputs_B), *shape)
    if outputs_B.shape != expected or not np.isfinite(outputs_B).all():
        raise InvalidManifest(
            f"{name} gives shape {outputs_B.shape} for black images, "
            f"expected finite numbers of shape {expected}"
        )
    return outputs_B
