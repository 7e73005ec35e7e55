"""What a bundle's report is made from: the members' answers, and how fast they are.

Shapes: M members, N images, K classes.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from contracts.answers import Answers
from contracts.figures import Floats
from contracts.records import Record

PerSecond = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ImagesPerSecond(Record):
    """Of one member on one thread, by how many images it is given at a time."""

    batch_1: PerSecond
    batch_16: PerSecond


class SpeedRecord(Record):
    """The one part of a report that depends on the machine."""

    machine: str  # in words
    fp32: ImagesPerSecond
    int8: ImagesPerSecond | None = None

    @property
    def int8_time(self) -> float | None:
        """Time of an int8 member in units of an fp32 one, one image at a time."""
        return None if self.int8 is None else self.fp32.batch_1 / self.int8.batch_1


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Answers of the members as deployed; `fp32_test_MNK` goes with int8 members."""

    calibration: Answers  # of the half of validation that chose nothing; may hold no image
    test: Answers | None = None  # None: the images were not at hand
    fp32_test_MNK: Floats | None = None  # probabilities of the same members before int8
    speed: SpeedRecord | None = None

    def __post_init__(self) -> None:
        fp32 = self.fp32_test_MNK
        if fp32 is not None and (self.test is None or fp32.shape != self.test.probs_MNK.shape):
            raise ValueError("fp32_test_MNK must have the shape of the test answers")
