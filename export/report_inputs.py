"""What a bundle's report is made from: the members' answers to the test split, and their speed.

Times differ between machines, so the report has them and no manifest.

Shapes: M members, N images, B of them together, C channels, H height, W width, K classes.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.cpu import processor
from snapensemble.contracts.errors import message_of
from snapensemble.contracts.metrics import Answers
from snapensemble.contracts.run import RunManifest
from snapensemble.export.config import ExportConfig
from snapensemble.export.members import Ensemble
from snapensemble.export.parity import Chain
from snapensemble.report.bundle.judged import Picture
from snapensemble.report.bundle.measure import ReportInputs
from snapensemble.report.bundle.records import ImagesPerSecond, SpeedRecord
from snapensemble.trainer.data.reread import NOT_AT_HAND, reread

BATCH_SIZES = (1, 16)
ROUNDS = 15
WORTH_IT = 1.05  # below this, two timings of the same file may differ as much


def gather_report_inputs(
    served: Ensemble,
    fp32: Ensemble,
    held_out: Answers,
    held_out_N: NDArray[np.intp],
    calibration_NCHW: NDArray[np.uint8],
    run: RunManifest,
    config: ExportConfig,
    say: Callable[[str], None],
) -> ReportInputs:
    """Run the members on the test split, in int8 and in fp32 where the bundle holds int8.

    Args:
        served: the members and their trunk as the bundle holds them.
        fp32: the same before they were quantised.
        held_out: the served members' answers to the calibration half of validation.
        held_out_N: the places of that half in the validation part.
        calibration_NCHW: real images to measure speed with.
        run: the manifest that says where the run found its images.
        config: where the images are now, and whether the report may show some of them.
        say: called with a sentence about what takes long, or why the test images cannot be read;
            the report then shows `held_out`.
    """
    data, int8 = config.data, served.precision == "int8"
    speed = measure_speed(fp32, served, calibration_NCHW, say) if int8 else None
    say(f"reading the test images of {data or run.data.spec}, for the report")
    try:
        test = reread(run.data, run.classes, run.image, spec=data)
    except NOT_AT_HAND as error:
        say(f"the report has no test figures: {message_of(error)}")
        picture = held_out_picture(held_out_N, run, config) if len(held_out_N) else None
        return ReportInputs(calibration=held_out, speed=speed, picture=picture)
    say(f"asking {len(served.members)} members about {len(test):,} test images")
    return ReportInputs(
        calibration=held_out,
        test=Answers(served.answers(test.images_NCHW), test.labels_N),
        fp32_test_MNK=fp32.answers(test.images_NCHW) if int8 else None,
        speed=speed,
        picture=test.images_NCHW.__getitem__ if config.thumbnails else None,
    )


def held_out_picture(
    held_out_N: NDArray[np.intp], run: RunManifest, config: ExportConfig
) -> Picture | None:
    """What gives a picture of the calibration half, if pictures may be shown and are at hand."""
    if not config.thumbnails:
        return None
    try:
        val = reread(run.data, run.classes, run.image, spec=config.data, split="val")
    except NOT_AT_HAND:  # why, is said of the test part
        return None
    return lambda place: val.images_NCHW[held_out_N[place]]


def measure_speed(
    fp32: Ensemble, int8: Ensemble, images_NCHW: NDArray[np.uint8], say: Callable[[str], None]
) -> SpeedRecord:
    """Time the first member in fp32 and in int8 in one thread, and say which is faster here."""
    speeds = compare_speed(fp32.first_chain, int8.first_chain, images_NCHW)
    say(in_words(speeds))
    rates = {f"batch_{speed.batch_size}": speed for speed in speeds}
    return SpeedRecord(
        machine=processor(),
        fp32=ImagesPerSecond(**{name: speed.fp32 for name, speed in rates.items()}),
        int8=ImagesPerSecond(**{name: speed.int8 for name, speed in rates.items()}),
    )


class Speed(NamedTuple):
    """Images per second of one thread that has a processor to itself."""

    batch_size: int
    fp32: float
    int8: float

    @property
    def ratio(self) -> float:
        """How many times as fast int8 is."""
        return self.int8 / self.fp32


def compare_speed(
    fp32_files: Sequence[bytes],
    int8_files: Sequence[bytes],
    images_NCHW: NDArray[np.uint8],
    *,
    seconds: float = 2.0,
) -> list[Speed]:
    """Time a member in fp32 and in int8, one after the other, at batch sizes 1 and 16.

    Args:
        fp32_files: the member, or its trunk and the member.
        int8_files: the same in int8.
        images_NCHW: at least one image; repeated if need be.
        seconds: how long the comparison takes in all; longer if a single run takes longer.
    """
    chains = [Chain(*fp32_files), Chain(*int8_files)]
    found = []
    for size in BATCH_SIZES:
        images_BCHW = images_NCHW[np.arange(size) % len(images_NCHW)]
        runs = [partial(chain, images_BCHW) for chain in chains]
        fp32, int8 = seconds_per_run(runs, seconds / len(BATCH_SIZES))
        found.append(Speed(size, size / fp32, size / int8))
    return found


def seconds_per_run(
    runs: Sequence[Callable[[], object]],
    seconds: float,
    *,
    work: Callable[[], float] = time.thread_time,
    clock: Callable[[], float] = time.monotonic,
) -> list[float]:
    """The median time of each run over several rounds; in a round every run has its turn.

    Args:
        runs: functions that work in this thread alone.
        seconds: for all of them together; three rounds are done in any case.
        work: this thread's processor time, which does not count while others have the processor.
        clock: says when the time is up.
    """

    def timed(run: Callable[[], object], times: int) -> float:
        start = work()
        for _ in range(times):
            run()
        return (work() - start) / times

    for run in runs:  # the first one also reserves memory
        run()
    end = clock() + seconds
    times = max(1, int(seconds / ROUNDS / sum(timed(run, 1) for run in runs)))
    rounds: list[list[float]] = []
    while len(rounds) < 3 or (len(rounds) < ROUNDS and clock() < end):
        rounds.append([timed(run, times) for run in runs])
    return [median(each) for each in zip(*rounds, strict=True)]


def in_words(speeds: Sequence[Speed]) -> str:
    """A sentence that says plainly when int8 is not worth it here."""
    figures = ", ".join(
        f"{speed.ratio:.2f} times as fast as fp32 at batch size {speed.batch_size} "
        f"({speed.int8:,.0f} and {speed.fp32:,.0f} images/s)"
        for speed in speeds
    )
    if all(speed.ratio >= WORTH_IT for speed in speeds):
        return f"int8 is {figures}, in one thread on this machine"
    return (
        f"int8 is not faster on this machine: {figures}, in one thread; it makes the "
        "files smaller, and wants a processor with VNNI to be faster"
    )
