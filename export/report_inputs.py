"""What a bundle's report is made from: the members' answers to the test split, and their speed.

Shapes: M members, N images, C channels, H height, W width, K classes.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.cpu import processor
from snapensemble.contracts.errors import InvalidData, message_of
from snapensemble.contracts.metrics import Answers
from snapensemble.contracts.run import RunManifest
from snapensemble.export.members import Ensemble
from snapensemble.export.speed import compare_speed, in_words
from snapensemble.report.bundle.measure import ReportInputs
from snapensemble.report.bundle.records import ImagesPerSecond, SpeedRecord
from snapensemble.trainer.data.reread import reread


def gather_report_inputs(
    served: Ensemble,
    fp32: Ensemble,
    held_out: Answers,
    calibration_NCHW: NDArray[np.uint8],
    run: RunManifest,
    data: str | None,
    say: Callable[[str], None],
) -> ReportInputs:
    """Run the members on the test split, in int8 and in fp32 where the bundle holds int8.

    Args:
        served: the members and their trunk as the bundle holds them.
        fp32: the same before they were quantised.
        held_out: the served members' answers to the calibration half of validation.
        calibration_NCHW: real images to measure speed with.
        run: the manifest that says where the run found its images.
        data: where the images are now, or None if they are still there.
        say: called with a sentence about what takes long, or why the test images cannot be read;
            the report then shows `held_out`.
    """
    int8 = served.precision == "int8"
    speed = measure_speed(fp32, served, calibration_NCHW, say) if int8 else None
    say(f"reading the test images of {data or run.data.spec}, for the report")
    try:
        test = reread(run.data, run.classes, run.image, spec=data)
    except InvalidData as error:
        say(f"the report has no test figures: {message_of(error)}")
        return ReportInputs(calibration=held_out, speed=speed)
    say(f"asking {len(served.members)} members about {len(test):,} test images")
    return ReportInputs(
        calibration=held_out,
        test=Answers(served.answers(test.images_NCHW), test.labels_N),
        fp32_test_MNK=fp32.answers(test.images_NCHW) if int8 else None,
        speed=speed,
    )


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
