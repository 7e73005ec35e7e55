"""The page: one HTML file that needs nothing else. All that comes from the run is escaped."""

import base64
import shlex
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from contracts.records import Record
from report.measure import Measured
from report.pictures import Picture, cycle_word, percents

GENERATOR = '<meta name="generator" content="snapensemble report">'
STYLE = files("report").joinpath("page.css").read_text(encoding="utf-8")


def page(measured: Measured, drawn: Sequence[Picture], run_dir: Path) -> str:
    """The whole page, pictures inside. The same run gives the same page."""
    title = f"{measured.run.training.model} on {measured.run.data.spec}"
    body = [
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(sentence)}</p>" for sentence in summary(measured)),
        *map(_figure, drawn),
        _snapshot_table(measured),
        _settings(measured),
        _next_steps(measured, run_dir),
    ]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<meta charset="utf-8">',
            GENERATOR,
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{STYLE}</style>",
            "<main>",
            *filter(None, body),
            "</main>",
            "",
        ]
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


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    return (
        f"<section><h2>{escape(picture.title)}</h2>\n<figure>"
        f'<div class="card"><img alt="{escape(picture.alt)}" '
        f'src="data:image/png;base64,{data}"></div>\n'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure></section>"
    )


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
    return f"<section><h2>Snapshots</h2>\n<p>{note}</p>\n{_table(rows, head, 'numbers')}</section>"


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
    return f"<section><h2>Settings</h2>\n{_table(rows)}</section>"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _next_steps(measured: Measured, run_dir: Path) -> str:
    commands = []
    if not measured.run.complete:
        commands.append(("Go on where it stopped", ["train", "--resume", f"{run_dir}"]))
    if measured.snapshots:
        bundle = f"bundles/{run_dir.resolve().name}"
        m = str(measured.best_size)
        commands += [
            ("Export", ["export", f"{run_dir}", "--out", bundle, "--members", m]),
            ("Measure on the test images", ["evaluate", bundle]),
            ("Serve", ["serve", bundle]),
        ]
    if not commands:
        return ""
    rows = [(what, shlex.join(["snapensemble", *words])) for what, words in commands]
    items = "\n".join(
        f"<dt>{escape(what)}</dt><dd><code>{escape(line)}</code></dd>" for what, line in rows
    )
    return f"<section><h2>What next</h2>\n<dl>\n{items}\n</dl></section>"


def _table(rows: Iterable[Sequence[str]], head: Sequence[str] = (), kind: str = "words") -> str:
    lines = [f'<div class="wide"><table class="{kind}">']
    if head:
        lines.append(f"<thead>{_row(head, 'th')}</thead>")
    lines += [_row(row, "td") for row in rows]
    return "\n".join([*lines, "</table></div>"])


def _row(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
