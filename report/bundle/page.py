"""The report inside a bundle: written by the export, read by `snapensemble report`."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from snapensemble.contracts.bundle import BundleManifest, read_bundle
from snapensemble.contracts.errors import InvalidConfig, InvalidManifest
from snapensemble.contracts.files import read_regular, refuse_unwritable, write_atomically
from snapensemble.contracts.manifest import write_manifest
from snapensemble.contracts.signatures import SIGNATURE_FILE
from snapensemble.report.bundle.charts import draw_charts
from snapensemble.report.bundle.confusion import class_rows, shown_matrix
from snapensemble.report.bundle.judged import Picture, cards
from snapensemble.report.bundle.measure import ReportInputs, measure_bundle
from snapensemble.report.bundle.novelty import area, novel_shares, with_measured
from snapensemble.report.bundle.options import class_coverage, cost, precision_of
from snapensemble.report.bundle.records import (
    FIGURES_FILE,
    REPORT_DIR,
    BundleFigures,
    NoveltyFigures,
    Selective,
    read_figures,
)
from snapensemble.report.bundle.words import (
    export_command,
    images_of,
    option_name,
    quality,
    remedy,
    set_name,
    summary,
)
from snapensemble.report.figures import pairs_of, share_interval
from snapensemble.report.html import PAGE_FILE, claim_directory, render

MAX_PAGE_BYTES = 64 * 2**20
SHARES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)  # of the images answered, in the table
# What is written into a page is escaped, so that no other text of it looks like this.
NOVELTY_SECTION = re.compile(rb'<section id="novelty">.*?</section>', re.DOTALL)


def write_bundle_report(directory: Path, bundle: BundleManifest, inputs: ReportInputs) -> None:
    """Write `directory/report/index.html` and `figures.json` beside it.

    Args:
        directory: the bundle's, while it is being made; it need not hold its manifest yet.
        bundle: the manifest as it will be written, its version included.
        inputs: the members' answers, and their speed.

    Raises:
        WriteFailed: the disk is full, or the directory cannot be written.
    """
    figures = measure_bundle(bundle, inputs)
    text = bundle_page(bundle, figures, inputs.picture)
    report_dir = directory / REPORT_DIR
    claim_directory(report_dir)
    write_manifest(report_dir / FIGURES_FILE, figures)
    write_atomically(report_dir / PAGE_FILE, text.encode())


def read_bundle_report(
    bundle_dir: Path, out: Path | None = None
) -> tuple[BundleManifest, BundleFigures, Path]:
    """The bundle's manifest, the numbers behind its page, and the page's file.

    Args:
        bundle_dir: made by the export.
        out: a directory to copy the page to; it stays where it is if not given.

    Raises:
        InvalidManifest: the bundle is damaged, or it has no report of its own.
        InvalidConfig: `out` holds a page that is no report.
        WriteFailed: `out` cannot be written.
    """
    bundle = read_bundle(bundle_dir)
    page = bundle_dir / REPORT_DIR / PAGE_FILE
    for file in (page, page.with_name(FIGURES_FILE)):
        if not file.is_file():
            raise InvalidManifest(
                f"{file} does not exist: the bundle was exported without a report, or it was "
                f"removed; to have one, export again: {export_command(bundle)}"
            )
    figures = read_figures(bundle_dir)
    if figures.version != bundle.version:
        raise InvalidManifest(
            f"{page.parent}: the report is of version {figures.version}, the bundle is "
            f"{bundle.version}; to have its own, export again: {export_command(bundle)}"
        )
    if out is not None:
        claim_directory(out)
        write_atomically(out / PAGE_FILE, page.read_bytes())
        page = out / PAGE_FILE
    return bundle, figures, page


def read_open_report(bundle_dir: Path) -> tuple[BundleManifest, BundleFigures, bytes]:
    """The bundle's manifest, the numbers behind its page, and the page, if it can be added to.

    Raises:
        InvalidManifest: the bundle is damaged, has no report of its own, or one of an earlier
            version.
        InvalidConfig: the bundle is signed, and its signature covers the report.
        WriteFailed: the report cannot be written.
    """
    bundle, figures, page = read_bundle_report(bundle_dir)
    if (bundle_dir / SIGNATURE_FILE).exists():
        raise InvalidConfig(
            f"{bundle_dir} is signed, and {SIGNATURE_FILE} covers its report: remove the "
            "signature, add to the report, and sign again"
        )
    refuse_unwritable(page.parent)
    text = read_regular(page, MAX_PAGE_BYTES)
    if bundle.novelty is not None and len(NOVELTY_SECTION.findall(text)) != 1:
        raise InvalidManifest(
            f"{page}: the page has no place for other pictures, an earlier version made it; to "
            f"have one, export again: {export_command(bundle)} --novelty"
        )
    return bundle, figures, text


def add_novelty(bundle_dir: Path, found: NoveltyFigures) -> Path:
    """Add a measurement to the report of a bundle that knows what is novel; returns its page.

    Only the section about other pictures is drawn again: the page's thumbnails are nowhere else.

    Args:
        bundle_dir: made by the export.
        found: takes the place of an earlier measurement of the same pictures.

    Raises:
        InvalidManifest, InvalidConfig: as for `read_open_report`.
        WriteFailed: the bundle cannot be written.
    """
    bundle, figures, text = read_open_report(bundle_dir)
    measured = with_measured(figures.novelty, found)
    figures = figures.model_copy(update={"novelty": measured})
    section = render("novelty.html.j2", bundle=bundle, **_novelty_values(figures))
    page = bundle_dir / REPORT_DIR / PAGE_FILE
    write_manifest(page.with_name(FIGURES_FILE), figures)
    write_atomically(page, NOVELTY_SECTION.sub(lambda _: section.encode(), text))
    return page


def _novelty_values(figures: BundleFigures) -> dict[str, Any]:
    """What the section about other pictures says, beside the manifest."""
    return {"measured": figures.novelty, "novel_rows": novel_shares(figures.novelty), "area": area}


def bundle_page(
    bundle: BundleManifest, figures: BundleFigures, picture: Picture | None = None
) -> str:
    """The whole page, charts inside. The same bundle, figures and pictures give the same page.

    Args:
        bundle: what the page is about.
        figures: what it says.
        picture: gives one of the images that were measured; None: no picture may be shown.
    """
    answers = figures.answers
    # Sets of figures that an older version wrote have no counts by class.
    full_sets = [s for s in answers.sets if not s.cascade and s.covered] if answers else []
    return render(
        "bundle.html.j2",
        title=f"{bundle.name}, version {bundle.version}",
        summary=summary(bundle, figures),
        remedy=remedy(bundle, figures),
        bundle=bundle,
        figures=figures,
        answers=answers,
        charts={} if answers is None else draw_charts(bundle, figures, answers),
        pairs=None if answers is None else pairs_of(np.array(answers.disagreement)),
        surest=() if answers is None else surest(answers.selective),
        precision=precision_of(bundle),
        images=images_of(figures),
        full_sets=full_sets,
        coverage=class_coverage(full_sets, answers.classes, bundle.classes) if answers else [],
        class_rows=class_rows(answers) if answers else [],
        matrix=shown_matrix(answers, bundle.classes) if answers else None,
        images_of_class={c.name: c.images for c in answers.classes} if answers else {},
        wrong=answers.selective[0].wrong if answers else 0,
        share_interval=share_interval,
        mistakes=cards(answers.mistakes, bundle, picture) if answers else [],
        least_sure=cards(answers.least_sure, bundle, picture) if answers else [],
        cost=partial(cost, speed=figures.speed, price=bundle.price),
        option_name=option_name,
        quality=quality,
        set_name=set_name,
        **_novelty_values(figures),
    )


def surest(steps: tuple[Selective, ...]) -> list[Selective]:
    """For each share, the step that answers just as many images or more; each step once."""
    found = (next(s for s in reversed(steps) if s.answered >= share - 1e-9) for share in SHARES)
    return list(dict.fromkeys(found))
