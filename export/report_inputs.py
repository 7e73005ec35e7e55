"""What the report of a bundle is made from: the members' answers to test, and how fast they are.

Shapes: M members, N images, C channels, H height, W width, K classes.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.cpu import processor
from snapensemble.contracts.errors import InvalidData, message_of
from snapensemble.contracts.metrics import Answers, Floats, softmax
from snapensemble.contracts.run import RunManifest
from snapensemble.export.members import Exported
from snapensemble.export.parity import run_member
from snapensemble.export.speed import compare_speed, in_words
from snapensemble.report.bundle.measure import ReportInputs
from snapensemble.report.bundle.records import ImagesPerSecond, SpeedRecord
from snapensemble.trainer.data.reread import reread


def gather_report_inputs(
    served: Sequence[Exported],
    fp32: Sequence[Exported],
    held_out: Answers,
    calibration_NCHW: NDArray[np.uint8],
    run: RunManifest,
    data: str | None,
    say: Callable[[str], None],
) -> ReportInputs:
    """Ask the members about the test split, in int8 and fp32 where they differ.

    Args:
        served: the members as the bundle holds them.
        fp32: the same before they were quantised.
        held_out: their answers to the calibration half of validation.
        calibration_NCHW: real images to measure speed with.
        run: what says where the images are.
        data: where they are now.
        say: is told when the test images cannot be had; the report then shows `held_out`.
    """
    int8 = served[0].precision == "int8"
    speed = measure_speed(fp32[0], served[0], calibration_NCHW, say) if int8 else None
    try:
        test = reread(run.data, run.classes, run.image, spec=data)
    except InvalidData as error:
        say(f"the report has no test figures: {message_of(error)}")
        return ReportInputs(calibration=held_out, speed=speed)
    say(f"asking {len(served)} members about {len(test):,} test images, for the report")
    return ReportInputs(
        calibration=held_out,
        test=Answers(_ask(served, test.images_NCHW), test.labels_N),
        fp32_test_MNK=_ask(fp32, test.images_NCHW) if int8 else None,
        speed=speed,
    )


def measure_speed(
    fp32: Exported, int8: Exported, images_NCHW: NDArray[np.uint8], say: Callable[[str], None]
) -> SpeedRecord:
    """One member both ways on one thread of this machine; says which is faster."""
    speeds = compare_speed(fp32.onnx_file, int8.onnx_file, images_NCHW)
    say(in_words(speeds))
    rates = {f"batch_{speed.batch_size}": speed for speed in speeds}
    return SpeedRecord(
        machine=processor(),
        fp32=ImagesPerSecond(**{name: speed.fp32 for name, speed in rates.items()}),
        int8=ImagesPerSecond(**{name: speed.int8 for name, speed in rates.items()}),
    )


def _ask(members: Sequence[Exported], images_NCHW: NDArray[np.uint8]) -> Floats:
    """probs_MNK of the images."""
    return np.stack([softmax(run_member(member.onnx_file, images_NCHW)) for member in members])
