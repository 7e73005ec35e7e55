"""figures.json: the numbers behind a bundle's page, and how they are read."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from snapensemble.contracts.bundle import Precision
from snapensemble.contracts.manifest import Figures, Fraction, Record, read_manifest
from snapensemble.contracts.prediction_sets import Method

REPORT_DIR = "report"  # in the bundle
FIGURES_FILE = "figures.json"
Count = Annotated[int, Field(ge=0)]
PerSecond = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ShownSplit = Literal["test", "calibration"]


class Reliability(Record):
    """How sure and how right the answers are, in bins of equal width over (0, 1]."""

    images: tuple[Count, ...]
    confidence: tuple[Fraction | None, ...]  # mean probability of the top class; None: no image
    accuracy: tuple[Fraction | None, ...]


class Selective(Record):
    """What is gained by answering only where the answer is sure."""

    confidence: Fraction  # the least at which an image is answered
    answered: Fraction  # of all images
    accuracy: Fraction  # of those answered
    wrong: Count


class Option(Record):
    """One way to serve the bundle."""

    precision: Precision
    cascade: bool
    active: bool = False  # the cascade's point that holds where no tolerance is asked for
    members_per_image: Annotated[float, Field(ge=1)]
    figures: Figures


class SetFigures(Record):
    """How one kind of prediction set does on the images shown."""

    cascade: bool  # whether the cascade's active point answers, or every member
    method: Method
    promised: Fraction
    coverage: Fraction  # measured
    chance: Fraction | None  # two standard deviations; None where coverage was not measured anew
    mean_size: Annotated[float, Field(ge=1)]
    sizes: tuple[tuple[Count, Count], ...]  # size, images; no size without images
    # Images of each class whose set holds it, in the manifest's order of classes.
    covered: tuple[Count, ...] = ()


class ClassFigures(Record):
    """How the images of one class are answered."""

    name: str
    images: Count
    right: Count
    answered: Count | None = None  # how often it was the answer; None: an earlier version
    mistaken_for: str | None  # the most frequent wrong answer
    mistaken: Count  # how often that wrong answer was given


class Confused(Record):
    """One class that is taken for another."""

    right: str
    answer: str
    images: Count  # of the right class that got this answer
    other_way: Count  # of the answer's class that were taken for the right one


class Judged(Record):
    """One image, its answer, and what each member said of it."""

    image: Count  # its place among the images shown, from 0
    right: str
    answer: str
    probability: Fraction  # of the answer
    probability_of_right: Fraction
    votes: tuple[Count, ...]  # each member's likeliest class, in the manifest's order of classes
    vote_probabilities: tuple[Fraction, ...]


class ImagesPerSecond(Record):
    """Images per second of one member on one thread, by the images in a batch."""

    batch_1: PerSecond
    batch_16: PerSecond


class SpeedRecord(Record):
    """The one part of a report that depends on the machine."""

    machine: str  # the processor's name
    fp32: ImagesPerSecond
    int8: ImagesPerSecond | None = None

    @property
    def int8_time(self) -> float | None:
        """Time of an int8 member in units of an fp32 one, one image at a time."""
        return None if self.int8 is None else self.fp32.batch_1 / self.int8.batch_1


class AnswerFigures(Record):
    """All that is measured on one set of images."""

    members: tuple[Figures, ...]  # each alone
    growth: tuple[Figures, ...]  # the first 1, 2, ..., M averaged, before the temperature
    before: Figures  # the average of all members without the temperature
    after: Figures  # and with it
    reliability_before: Reliability
    reliability_after: Reliability
    disagreement: tuple[tuple[Fraction, ...], ...]
    selective: Annotated[tuple[Selective, ...], Field(min_length=1)]  # first, all are answered
    selective_single: tuple[Selective, ...]  # of the first member alone
    options: tuple[Option, ...]
    sets: tuple[SetFigures, ...]
    classes: tuple[ClassFigures, ...]  # the least accurate first
    # Images by right class and answer, in the manifest's order; none of more than 200 classes.
    confusion: tuple[tuple[Count, ...], ...] = ()
    confused: tuple[Confused, ...] = ()  # the most frequent first
    mistakes: tuple[Judged, ...] = ()  # the highest probabilities of a wrong class first
    least_sure: tuple[Judged, ...] = ()  # right answers, the lowest probabilities first


class NoveltyShares(Record):
    """What a limit of the bundle's calls novel: the share of its own pictures, and of others."""

    false_alarms: Fraction  # promised, at most
    own: Fraction
    others: Fraction


class NoveltyFigures(Record):
    """How well pictures of other things are told from a bundle's own, see contracts.novelty."""

    data: str  # the others: a directory, or a data set
    images: Annotated[int, Field(ge=1)]
    own_data: str
    own_split: Literal["train", "val", "test"]
    own_images: Annotated[int, Field(ge=1)]
    auroc: Fraction  # of the distance: how often another picture is farther away than an own one
    auroc_interval: tuple[Fraction, Fraction]  # at 95 % confidence
    auroc_of_confidence: Fraction  # the same of the largest probability, which should be lower
    auroc_of_confidence_interval: tuple[Fraction, Fraction]
    shares: tuple[NoveltyShares, ...]


class BundleFigures(Record):
    """Everything on the page that the bundle's manifest does not say."""

    format: Literal["bundle-report"] = "bundle-report"
    format_version: Literal[1] = 1
    name: str
    version: str
    split: ShownSplit
    images: Count
    answers: AnswerFigures | None  # None without images
    speed: SpeedRecord | None  # the only numbers that depend on the machine
    novelty: tuple[NoveltyFigures, ...] = ()  # added by `evaluate --unlike SPEC --report`


def read_figures(bundle_dir: Path) -> BundleFigures:
    """Read the numbers of a bundle's report; raise InvalidManifest if they are not right."""
    path = bundle_dir / REPORT_DIR / FIGURES_FILE
    return read_manifest(path, BundleFigures, made_by="snapensemble export")
