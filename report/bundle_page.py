"""The page of a bundle: what it is, how good it is, what it costs, what it cannot promise."""

from collections.abc import Iterator

from contracts.bundle import BundleManifest
from report import bundle_pictures as pictures
from report.bundle_options import cost
from report.bundle_records import AnswerFigures, BundleFigures
from report.bundle_words import images_of, option_name, remedy, summary
from report.markup import (
    Picture,
    bullets,
    commands,
    document,
    figure,
    paragraph,
    percents,
    section,
    table,
)
from report.model_card import limits, model_card

SHARES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)  # of the images answered, in the table
CLASSES_LISTED = 30


def bundle_page(bundle: BundleManifest, figures: BundleFigures) -> str:
    """The whole page, pictures inside. The same bundle and figures give the same page."""
    answers = figures.answers
    return document(
        f"{bundle.name}, version {bundle.version}",
        [
            *map(paragraph, summary(bundle, figures)),
            commands(remedy(bundle, figures)),
            *([] if answers is None else _measured(bundle, figures, answers)),
            _members(bundle, figures),
            _classes(figures),
            section("Model card", table(model_card(bundle))),
            section("Limits", bullets(limits(bundle))),
        ],
    )


def _measured(
    bundle: BundleManifest, figures: BundleFigures, answers: AnswerFigures
) -> Iterator[str]:
    several = len(bundle.members) > 1
    if several:
        yield _shown(pictures.growth(figures, answers))
    yield _shown(pictures.calibration(bundle, figures, answers), _calibration_table(answers))
    if several:
        yield _shown(pictures.disagreement(bundle, figures, answers))
    yield _shown(pictures.sureness(figures, answers), _sureness_table(answers))
    if several or len({option.precision for option in answers.options}) > 1:
        yield _shown(pictures.costs(bundle, figures, answers), *_cost_tables(figures, answers))
    if answers.sets:
        yield _shown(pictures.sets(answers), *_sets_table(figures, answers))


def _shown(picture: Picture, *tables: str) -> str:
    return section(picture.title, figure(picture), *tables)


def _calibration_table(answers: AnswerFigures) -> str:
    rows = [
        (name, f"{f.ece:.4f}", f"{f.adaptive_ece:.4f}", f"{f.nll:.4f}", f"{f.brier:.4f}")
        for name, f in (
            ("without a temperature", answers.before),
            ("with the temperature", answers.after),
        )
    ]
    return table(rows, ("", "ECE", "adaptive ECE", "NLL", "Brier"), "named")


def _sureness_table(answers: AnswerFigures) -> str:
    chosen = dict.fromkeys(pictures.at_least(answers.selective, share) for share in SHARES)
    rows = [
        (percents(s.answered), f"{s.confidence:.4f}", percents(s.accuracy), f"{s.wrong:,}")
        for s in chosen
    ]
    return table(rows, ("answered", "confidence at least", "accuracy", "wrong"), "numbers")


def _cost_tables(figures: BundleFigures, answers: AnswerFigures) -> Iterator[str]:
    speed = figures.speed
    timed = speed is not None and speed.int8_time is not None
    rows = []
    for option in answers.options:
        name = option_name(option) + (" (in use)" if option.active else "")
        time = (f"{cost(option, speed):.2f}",) if timed else ()
        f = option.figures
        numbers = (percents(f.accuracy), f"{f.nll:.4f}", f"{f.ece:.4f}")
        rows.append((name, f"{option.members_per_image:.2f}", *time, *numbers))
    head = ("", "members per image", *(("time",) if timed else ()), "accuracy", "NLL", "ECE")
    yield table(rows, head, "named")
    if speed is None:
        return
    rates = [("fp32", speed.fp32), ("int8", speed.int8)]
    yield paragraph(f"Images per second of one member on one thread, measured on {speed.machine}:")
    yield table(
        [(name, f"{r.batch_1:,.0f}", f"{r.batch_16:,.0f}") for name, r in rates if r is not None],
        ("", "one at a time", "16 at a time"),
        "named",
    )


def _sets_table(figures: BundleFigures, answers: AnswerFigures) -> Iterator[str]:
    rows = [
        (
            f"{'cascade' if s.cascade else 'every member'}, {s.method.replace('_', ' ')}",
            f"{s.promised:.0%}",
            percents(s.coverage),
            "–" if s.chance is None else f"± {s.chance:.2%}",
            f"{s.mean_size:.2f}",
            percents(sum(n for size, n in s.sizes if size == 1) / figures.images),
        )
        for s in answers.sets
    ]
    head = ("", "promised", "found", "by chance", "classes", "one class")
    yield table(rows, head, "named")
    yield paragraph(
        "These sets were fitted on the images shown here, so what is found is what was fitted."
        if figures.split == "calibration"
        else "By chance: how far what is found may fall below what is promised with so many "
        "images to fit and to measure, two standard deviations. It can lie well above: the top "
        "class is always in the set, which the fit does not count on."
    )


def _members(bundle: BundleManifest, figures: BundleFigures) -> str:
    answers = figures.answers
    rows = []
    for place, member in enumerate(bundle.members):
        here = answers.members[place] if answers is not None else None
        rows.append(
            (
                member.name,
                f"{member.run}",
                f"{member.cycle}",
                member.precision,
                f"{member.weight:.3f}",
                f"{member.val.nll:.4f}",
                percents(member.val.accuracy),
                *((f"{here.nll:.4f}", percents(here.accuracy)) if here is not None else ()),
            )
        )
    split = figures.split
    head = ["", "run", "cycle", "precision", "weight", "val NLL", "val accuracy"]
    if answers is not None:
        head += [f"{split} NLL", f"{split} accuracy"]
    return section("Members", table(rows, head, "named"))


def _classes(figures: BundleFigures) -> str:
    if figures.answers is None:
        return ""
    found = figures.answers.classes
    rows = [
        (
            c.name,
            f"{c.images:,}",
            f"{c.right:,}",
            percents(c.right / c.images) if c.images else "–",
            "–" if c.mistaken_for is None else f"{c.mistaken_for} ({c.mistaken:,})",
        )
        for c in found[:CLASSES_LISTED]
    ]
    note = f"The {images_of(figures)}, every member asked; the least accurate classes first."
    if len(found) > CLASSES_LISTED:
        note += f" {CLASSES_LISTED} of {len(found):,}; figures.json has all."
    head = ("", "images", "right", "accuracy", "most often taken for")
    return section("Classes", paragraph(note), table(rows, head, "named"))
