"""Which pictures a bundle's figures give, with what each says in words."""

import numpy as np

from contracts.bundle import BundleManifest
from report.bundle_charts import growth_chart, reliability_chart, selective_chart
from report.bundle_option_charts import cost_chart, sets_chart
from report.bundle_options import cost, precision_of
from report.bundle_records import AnswerFigures, BundleFigures, Selective
from report.bundle_words import images_of, option_name, quality
from report.heatmap import disagreement_chart
from report.markup import Picture, percents


def growth(figures: BundleFigures, answers: AnswerFigures) -> Picture:
    """The ensemble as it grows."""
    M = len(answers.growth)
    return Picture(
        "growth",
        "How many members",
        f"The {images_of(figures)}. Line: the probabilities of the first m members averaged, "
        "before the temperature. Diamonds: each member alone. Members are in the bundle's order, "
        "the one that validation found best first.",
        f"The first member alone: {quality(answers.growth[0])}. "
        f"The average of all {M}: {quality(answers.growth[-1])}.",
        growth_chart(answers),
    )


def calibration(bundle: BundleManifest, figures: BundleFigures, answers: AnswerFigures) -> Picture:
    """How far confidence can be believed."""
    before, after, T = answers.before, answers.after, bundle.temperature
    panels = [("without a temperature", answers.reliability_before)]
    if T != 1:
        panels.append((f"with the temperature {T:.3g}", answers.reliability_after))
    change = (
        f" The temperature {T:.3g} makes every answer {'less' if T > 1 else 'more'} sure and "
        "changes no top class."
        if T != 1
        else " The temperature is 1, which changes nothing."
    )
    return Picture(
        "calibration",
        "How far confidence can be believed",
        f"The {images_of(figures)} in 15 bins of confidence. Blue: how often the top class is "
        "right. Orange: how far the mean confidence of the bin is above that; green: how far "
        "below. Grey: how many images are in each bin, on a logarithmic axis; a bin with few says "
        "little." + change,
        f"ECE {before.ece:.4f} before the temperature and {after.ece:.4f} after it; "
        f"NLL {before.nll:.4f} and {after.nll:.4f}.",
        reliability_chart(panels),
    )


def disagreement(bundle: BundleManifest, figures: BundleFigures, answers: AnswerFigures) -> Picture:
    """How far the members disagree."""
    M = len(answers.members)
    disagreement_MM = np.array(answers.disagreement)
    pairs = disagreement_MM[np.triu_indices(M, k=1)]
    short = [
        name if len(name) <= 16 else f"{name[:15]}…" for name in (m.name for m in bundle.members)
    ]
    return Picture(
        "disagreement",
        "How far the members disagree",
        f"Percent of the {images_of(figures)} to which two members give different top classes. "
        "Members that never disagree gain nothing from being averaged.",
        f"Two of the {M} members disagree on {percents(pairs.min())} to {percents(pairs.max())} "
        f"of the {images_of(figures)}, {percents(pairs.mean())} on average.",
        disagreement_chart(
            disagreement_MM,
            short if M <= 8 else [str(m) for m in range(1, M + 1)],
            xlabel="one member" if M <= 8 else "one member, by its place",
            ylabel="the other",
            images=images_of(figures),
        ),
    )


def sureness(figures: BundleFigures, answers: AnswerFigures) -> Picture:
    """What answering only the sure images gives."""
    half = at_least(answers.selective, 0.5)
    single = answers.selective_single if len(answers.members) > 1 else None
    return Picture(
        "sureness",
        "Answering only where it is sure",
        "Accuracy of the images with the highest confidence, by how many are answered. Where a "
        "person looks at the rest, this is what they leave unseen.",
        f"All {figures.images:,} {images_of(figures)} answered: accuracy "
        f"{percents(answers.selective[0].accuracy)}. The surest {percents(half.answered)}: "
        f"{percents(half.accuracy)}.",
        selective_chart(answers.selective, single, images_of(figures)),
    )


def at_least(steps: tuple[Selective, ...], share: float) -> Selective:
    """The surest part that is no smaller than a share of the images."""
    return next(s for s in reversed(steps) if s.answered >= share - 1e-9)


def costs(bundle: BundleManifest, figures: BundleFigures, answers: AnswerFigures) -> Picture:
    """What serving costs, and what it gives."""
    speed, precision = figures.speed, precision_of(bundle)
    timed = precision == "int8" and speed is not None and speed.int8_time is not None
    first = answers.options[0].model_copy(update={"precision": precision, "members_per_image": 1.0})
    xlabel = "time per image (one fp32 member = 1)" if timed else "members asked per image"
    caption = f"The {images_of(figures)}."
    if bundle.cascade is not None:
        caption += (
            " A cascade asks members in order and stops where the answer is safe: each dot is one "
            "choice of thresholds, from cheap to dear; circled is the one in use, within an "
            f"accuracy drop of {percents(bundle.cascade.max_accuracy_drop)} and a relative rise of "
            f"NLL of {percents(bundle.cascade.max_nll_rise)} on validation."
        )
    caption += " Dashed: what one fp32 member costs."
    if timed:
        caption += " Time counts the members' own work, one image at a time on one thread."
    elif precision == "int8":
        caption += " How fast int8 is was not measured, so its members count as much as fp32 ones."
    if any(o.precision != precision for o in answers.options):
        caption += (
            " The fp32 members answer under the temperatures and thresholds of the int8 ones."
        )
    shown = [o for o in answers.options if o.active or not o.cascade]
    return Picture(
        "costs",
        "What it costs, and what it gives",
        caption,
        " ".join(
            f"{option_name(o).capitalize()}: cost {cost(o, speed):.2f}, {quality(o.figures)}."
            for o in shown
        ),
        cost_chart(answers.options, speed, (cost(first, speed), answers.members[0]), xlabel),
    )


def sets(answers: AnswerFigures) -> Picture:
    """How large prediction sets are, and how often they hold the right class."""
    return Picture(
        "sets",
        "Prediction sets",
        "Sets hold the right class at least as often as promised, on average over images like "
        "those that they were fitted on. Least ambiguous sets are the smallest on average; "
        "adaptive ones grow where the answer is unsure. Bars: how many classes the sets hold.",
        " ".join(
            f"{'Cascade' if s.cascade else 'Every member'}, {s.method.replace('_', ' ')}: "
            f"{s.promised:.0%} promised, {percents(s.coverage)} found, "
            f"{s.mean_size:.2f} classes on average."
            for s in answers.sets
        ),
        sets_chart(answers.sets),
    )
