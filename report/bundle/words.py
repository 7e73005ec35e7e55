"""A bundle's figures in sentences, for the head of its page and for what the command prints."""

import shlex

from snapensemble.contracts.bundle import BundleManifest
from snapensemble.contracts.manifest import Figures
from snapensemble.report.bundle.options import precision_of
from snapensemble.report.bundle.records import AnswerFigures, BundleFigures, Option, SetFigures
from snapensemble.report.figures import share_interval
from snapensemble.report.html import accuracies, percents


def images_of(figures: BundleFigures) -> str:
    """Which images the page shows, as a noun."""
    return "test images" if figures.split == "test" else "calibration images"


def summary(bundle: BundleManifest, figures: BundleFigures) -> list[str]:
    """What the bundle is and how good it is, in a few sentences."""
    M, K = len(bundle.members), len(bundle.classes)
    what = (
        f"averages the probabilities of {M} networks ({bundle.model})"
        if M > 1
        else f"is one network ({bundle.model})"
    )
    if bundle.trunk is not None and bundle.price is not None and M > 1:
        networks = bundle.price.in_single_networks
        what += f", which share a trunk: an image takes {networks:.2f} times what one of them takes"
    sentences = [
        f"{bundle.name} {bundle.version} {what}. It was taught with {bundle.data.train_images:,} "
        f"images of {bundle.data.spec} and tells {K:,} classes apart."
    ]
    if bundle.class_prior == "uniform":
        sentences.append(
            "It answers as if all classes were equally frequent, which macro accuracy measures; "
            "the other figures count images as they come."
        )
    answers = figures.answers
    if answers is None:
        return [*sentences, *_without_test(bundle, figures)]
    sentences.append(_main_figures(figures, answers))
    sentences += [
        sentence
        for sentence in (_cascade(bundle, answers), _int8(bundle, figures, answers))
        if sentence is not None
    ]
    return sentences if figures.split == "test" else [*sentences, *_without_test(bundle, figures)]


def remedy(bundle: BundleManifest, figures: BundleFigures) -> list[tuple[str, str]]:
    """What brings the test images onto the page, and the command for it; none if they are there."""
    if figures.split == "test" or not bundle.data.test_images:
        return []
    return [("Measure on the test images", export_command(bundle))]


def export_command(bundle: BundleManifest) -> str:
    """The command that makes the bundle again, with a report on the test images."""
    words = ["--out", "BUNDLE_DIR", "--force", "--data", bundle.data.spec]
    return shlex.join(["snapensemble", "export", "RUN_DIR", *words])


def quality(figures: Figures) -> str:
    """The main figures, as a phrase."""
    return f"{accuracies(figures)}, NLL {figures.nll:.4f}"


def option_name(option: Option) -> str:
    """An option in words: which members answer, and in which precision."""
    return f"{'cascade' if option.cascade else 'every member'}, {option.precision}"


def set_name(found: SetFigures) -> str:
    """A kind of set in words: which members answer, and by which method a set is made."""
    return f"{'cascade' if found.cascade else 'every member'}, {found.method.replace('_', ' ')}"


def _main_figures(figures: BundleFigures, answers: AnswerFigures) -> str:
    where = f"On the {figures.images:,} {images_of(figures)}"
    text = f"{where}: {quality(answers.after)} nats, ECE {answers.after.ece:.4f}"
    if len(answers.members) > 1:
        text += f"; the first member alone has {quality(answers.members[0])}"
    right = figures.images - answers.selective[0].wrong
    low, high = map(percents, share_interval(right, figures.images))
    others = f"Of other images like these {low} to {high} are answered right, at 95% confidence."
    return f"{text}. {others}"


def _cascade(bundle: BundleManifest, answers: AnswerFigures) -> str | None:
    active = next((o for o in answers.options if o.active), None)
    if active is None or bundle.cascade is None:
        return None
    text = (
        f"The cascade asks {active.members_per_image:.2f} of the {len(answers.members)} members "
        f"per image on average: {quality(active.figures)}"
    )
    if bundle.cascade.promise == "estimate":
        return f"{text}; its limits are kept by an estimate, which is no promise."
    return f"{text}; its limits hold with {bundle.cascade.confidence:.0%} confidence."


def _int8(bundle: BundleManifest, figures: BundleFigures, answers: AnswerFigures) -> str | None:
    if precision_of(bundle) != "int8":
        return None
    text = "The members compute in int8"
    before = next((o for o in answers.options if o.precision == "fp32" and not o.cascade), None)
    if before is not None:
        text += f"; in fp32 the same members have {quality(before.figures)}"
    if figures.speed is not None and figures.speed.int8_time is not None:
        text += f"; an int8 member takes {figures.speed.int8_time:.2f} times as long as in fp32"
    return f"{text}."


def _without_test(bundle: BundleManifest, figures: BundleFigures) -> list[str]:
    why = (
        "The test images were not at hand when this bundle was exported"
        if bundle.data.test_images
        else "The data have no test images"
    )
    if not figures.images:
        return [f"{why}, and there are no validation images that chose nothing: nothing to show."]
    return [
        f"{why}, so this page shows the {figures.images:,} images of the calibration half of "
        "validation instead. They chose no member, but prediction sets are fitted on them, so "
        "these figures are no test."
    ]
