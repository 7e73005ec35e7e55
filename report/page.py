"""The page of a run: a summary, its pictures, a table of its snapshots, its settings."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from contracts.records import Record
from report.markup import (
    Picture,
    commands,
    document,
    figure,
    paragraph,
    percents,
    section,
    table,
)
from report.measure import Measured
from report.pictures import cycle_word


def page(measured: Measured, drawn: Sequence[Picture], run_dir: Path) -> str:
    """The whole page, pictures inside. The same run gives the same page."""
    title = f"{measured.run.training.model} on {measured.run.data.spec}"
    return document(
        title,
        [
            *map(paragraph, summary(measured)),
            *(section(picture.title, figure(picture)) for picture in drawn),
            _snapshot_table(measured),
            _settings(measured),
            _next_steps(measured, run_dir),
        ],
    )


def summary(measured: Measured) -> list[str]:
    """What the run was and came to, in a few sentences."""
    run, word = measured.run, cycle_word(measured)
    found, planned = len(run.snapshots), run.schedule.cycles
    sentences = [
        f"{run.data.train_images:,} images of {len(run.classes)} classes taught, "
        f"{run.data.val_images:,} validate. Schedule {run.schedule.name}; "
        f"{measured.steps:,} steps and {measured.epochs_done:,} epochs are logged."
    ]
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
        f"Best single snapshot: {word} {cycle}, validation NLL {best.nll:.4f}, "
        f"accuracy {percents(best.accuracy)}."
    )
    if found > 1 and m > 1:
        ensemble = measured.best_m[m - 1]
        sentences.append(
            f"Lowest NLL of an average: the best {m}, NLL {ensemble.nll:.4f}, accuracy "
            f"{percents(ensemble.accuracy)}, chosen and measured on the same validation images."
        )
    elif found > 1:
        sentences.append("No average of the best m has a lower validation NLL than that.")
    else:
        sentences.append("With one snapshot there is nothing to average or to compare.")
    return sentences


def _snapshot_table(measured: Measured) -> str:
    if not measured.snapshots:
        return ""
    word = cycle_word(measured)
    rows = [
        (
            f"{snapshot.cycle}",
            f"{snapshot.step:,}",
            f"{snapshot.learning_rate:.3g}",
            f"{figures['nll']:.4f}",
            percents(figures["accuracy"]),
            f"{figures['ece']:.4f}",
            f"{figures['brier']:.4f}",
        )
        for snapshot, figures in zip(measured.run.snapshots, measured.snapshots, strict=True)
    ]
    head = (word, "step", "rate", "NLL", "accuracy", "ECE", "Brier")
    note = "On the validation images. For NLL, ECE and Brier score less is better."
    return section("Snapshots", paragraph(note), table(rows, head, "numbers"))


def _settings(measured: Measured) -> str:
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
    return section("Settings", table(rows))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _next_steps(measured: Measured, run_dir: Path) -> str:
    steps = []
    if not measured.run.complete:
        steps.append(("Go on where it stopped", ["train", "--resume", f"{run_dir}"]))
    if measured.snapshots:
        bundle = f"bundles/{run_dir.resolve().name}"
        m = str(measured.best_size)
        steps += [
            ("Export", ["export", f"{run_dir}", "--out", bundle, "--members", m]),
            ("Measure on the test images", ["evaluate", bundle]),
            ("Serve", ["serve", bundle]),
        ]
    if not steps:
        return ""
    rows = [(what, shlex.join(["snapensemble", *words])) for what, words in steps]
    return section("What next", commands(rows))
