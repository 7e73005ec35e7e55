"""write_report() makes one page of a run directory, with its charts beside it."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from snapensemble.contracts.files import write_atomically
from snapensemble.contracts.manifest import Record
from snapensemble.contracts.run import Trial
from snapensemble.report.figures import pairs_of
from snapensemble.report.html import (
    PAGE_FILE,
    accuracies,
    claim_directory,
    refuse_directory,
    render,
)
from snapensemble.report.run.charts import CHARTS, draw_charts
from snapensemble.report.run.measure import Measured, measure

TRIALS: dict[Trial, str] = {
    "open": "Whether the rate restarts is open: the first epochs decide.",
    "fitted": "In the first cycle the network had fitted its training images, so the rate "
    "restarts; that cycle was cut short, and the rate of its last weights had hardly fallen.",
    "not fitted": "After the first epochs the network had not fitted its training images; "
    "restarts cost more than they gain there, so this is one cosine run.",
}


def write_report(run_dir: Path, directory: Path) -> Measured:
    """Write or replace `directory/index.html` and the charts, each file whole or not at all.

    Returns:
        The numbers behind the charts.

    Raises:
        InvalidManifest: the run is damaged.
        InvalidConfig: `directory` holds a page that is no report.
        WriteFailed: the disk is full, or `directory` cannot be written.
    """
    refuse_directory(directory)
    measured = measure(run_dir)
    charts = draw_charts(measured)
    claim_directory(directory)
    for name, png in charts.items():
        write_atomically(directory / f"{name}.png", png)
    write_atomically(directory / PAGE_FILE, page(measured, charts, run_dir).encode())
    for name in CHARTS.keys() - charts:  # left over from another run's report
        (directory / f"{name}.png").unlink(missing_ok=True)
    return measured


def page(measured: Measured, charts: Mapping[str, bytes], run_dir: Path) -> str:
    """The whole page, charts inside. The same run gives the same page."""
    return render(
        "run.html.j2",
        title=f"{measured.run.training.model} on {measured.run.data.spec}",
        summary=summary(measured),
        measured=measured,
        charts=charts,
        pairs=pairs_of(measured.disagreement_SS),
        settings=_settings(measured),
        next_steps=_next_steps(measured, run_dir),
    )


def summary(measured: Measured) -> list[str]:
    """What the run was and what came of it, in a few sentences."""
    run, word = measured.run, measured.cycle_word
    found, planned = len(run.snapshots), len(run.cycles)
    sentences = [
        f"{run.data.train_images:,} images of {len(run.classes)} classes taught, "
        f"{run.data.val_images:,} validate. Schedule {run.schedule.name}, "
        f"{run.schedule.in_words(word)}; "
        f"{measured.steps:,} steps and {measured.epochs_done:,} epochs are logged."
    ]
    if run.schedule.trial is not None:
        sentences.append(TRIALS[run.schedule.trial])
    if not run.complete:
        sentences.append(
            f"This run is not finished: {found} of {planned} {word}s have their snapshot."
        )
    if not found:
        sentences.append(
            "There is no snapshot yet, so this page shows the learning rate and the loss only."
            if measured.steps
            else "Nothing has been logged yet, so there is nothing to show."
        )
        return sentences
    best, m = measured.best_m[0], measured.best_size
    cycle = run.snapshots[measured.ranked[0]].cycle
    sentences.append(
        f"Best single snapshot: {word} {cycle}, validation NLL {best.nll:.4f}, {accuracies(best)}."
    )
    if found > 1 and m > 1:
        ensemble = measured.best_m[m - 1]
        sentences.append(
            f"Lowest NLL of an average: the best {m}, NLL {ensemble.nll:.4f}, "
            f"{accuracies(ensemble)}, chosen and measured on the same validation images."
        )
    elif found > 1:
        sentences.append("No average of the best m has a lower validation NLL than that.")
    else:
        sentences.append("With one snapshot there is nothing to average or to compare.")
    return sentences


def _settings(measured: Measured) -> list[tuple[str, str, str]]:
    """What the manifest records of the run: part, name, value."""
    run = measured.run
    parts: list[tuple[str, Record]] = [
        ("data", run.data),
        ("schedule", run.schedule),
        ("training", run.training),
    ]
    rows = [
        (part, name.replace("_", " "), _shown(value))
        for part, record in parts
        for name, value in record.model_dump().items()
        if value is not None and value != ()
    ]
    image = f"{run.image.channels} x {run.image.height} x {run.image.width}"
    rows.append(("image", "channels, height, width", image))
    rows.append(("classes", f"{len(run.classes)}", ", ".join(run.classes)))
    rows.append(("snapensemble", "version", run.snapensemble))
    return rows


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _next_steps(measured: Measured, run_dir: Path) -> list[tuple[str, str]]:
    """What to do with the run now, and the commands for it."""
    steps = []
    if not measured.run.complete:
        steps.append(("Go on where it stopped", ["train", "--resume", f"{run_dir}"]))
    if measured.snapshots:
        bundle = f"bundles/{run_dir.resolve().name}"
        steps += [
            ("Export", ["export", f"{run_dir}", "--out", bundle]),
            ("Measure on the test images", ["evaluate", bundle]),
            ("Serve", ["serve", bundle]),
        ]
    return [(what, shlex.join(["snapensemble", *words])) for what, words in steps]
