"""The charts of a run; each function draws one and returns the bytes of a PNG.

Shapes: T points of a curve.
"""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from snapensemble.contracts.manifest import ValFigures
from snapensemble.report.plots import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    disagreement_chart,
    log_if_wide,
    percent,
    png,
    shade,
    whole_numbers,
)
from snapensemble.report.run.measure import Measured

FEW = 12  # snapshots that can each have a label


def draw_charts(measured: Measured) -> dict[str, bytes]:
    """Draw the charts that the run has numbers for, under the names that its template uses."""
    names: list[str] = []
    if measured.steps:
        names += ["learning-rate", "curves"]
    if measured.snapshots:
        names += ["snapshots"]
    if len(measured.snapshots) > 1:
        names += ["ensemble", "disagreement"]
    return {name: CHARTS[name](measured) for name in names}


def rate_chart(measured: Measured) -> bytes:
    """Learning rate over optimizer steps, the snapshots marked."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        rate, snapshots = measured.rate, measured.run.snapshots
        end = float(rate.x_T[-1]) + 1
        shade(axes, [*measured.starts, end])
        axes.plot(rate.x_T, rate.y_T, color=BLUE, label="learning rate")
        if measured.run.schedule.name in ("step", "plateau"):
            log_if_wide(axes, rate.y_T.tolist(), ratio=9.0)
        axes.plot(
            [s.step - 1 for s in snapshots],
            [s.learning_rate for s in snapshots],
            "o",
            color=ORANGE,
            markersize=7 if len(snapshots) <= FEW else 4,
            label=f"snapshot, at the end of its {measured.cycle_word}",
            clip_on=False,
            zorder=5,
        )
        axes.set(xlabel="optimizer step", ylabel="learning rate", xlim=(0, end))
        if axes.get_yscale() == "linear":
            axes.set_ylim(0, 1.08 * float(rate.y_T.max()) or 1.0)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        if snapshots:
            figure.legend(loc="outside upper left", ncols=2)

    return png(3.4, draw)


def curves_chart(measured: Measured) -> bytes:
    """Training loss, validation NLL and validation accuracy over the epochs."""

    def draw(figure: Figure) -> None:
        validated = measured.epochs_done > 0
        rows = figure.subplots(3 if validated else 1, sharex=True, squeeze=False)[:, 0]
        per_epoch = measured.run.schedule.steps_per_epoch
        edges = [start / per_epoch for start in measured.starts]
        for axes in rows:
            shade(axes, [*edges, float(measured.loss.x_T[-1])])
        _draw_loss(rows[0], measured)
        if validated:
            nll, accuracy, macro = (
                measured.val_nll,
                measured.val_accuracy,
                measured.val_macro_accuracy,
            )
            dots = {"marker": "o" if measured.epochs_done <= 40 else "", "markersize": 4}
            rows[1].plot(nll.x_T, nll.y_T, color=ORANGE, clip_on=False, **dots)
            rows[1].set(title="Validation NLL, after each epoch", ylabel="NLL (nats)")
            log_if_wide(rows[1], nll.y_T.tolist(), ratio=5.0)
            rows[2].plot(
                accuracy.x_T, accuracy.y_T, color=GREEN, clip_on=False, label="of images", **dots
            )
            if len(macro.x_T):
                rows[2].plot(
                    macro.x_T, macro.y_T, "--", color=INK, label="macro: mean of classes", **dots
                )
                rows[2].legend(loc="lower right", ncols=2)
            rows[2].set(title="Validation accuracy, after each epoch", ylabel="accuracy")
            percent(rows[2], [*accuracy.y_T.tolist(), *macro.y_T.tolist()])
        rows[-1].xaxis.set_major_locator(MaxNLocator(10, integer=True))
        rows[-1].set(xlabel="epoch", xlim=(0, float(measured.loss.x_T[-1])))

    return png(7.6 if measured.epochs_done else 3.2, draw)


def _draw_loss(axes: Axes, measured: Measured) -> None:
    raw, smooth = measured.loss, measured.smooth_loss
    axes.plot(raw.x_T, raw.y_T, color=BLUE, alpha=0.22, linewidth=0.7, label="each step")
    label = f"mean of {measured.window:,} steps" if measured.window > 1 else "as it is"
    axes.plot(smooth.x_T, smooth.y_T, color=BLUE, label=label)
    axes.set(title="Training loss", ylabel="cross-entropy (nats)")
    log_if_wide(axes, smooth.y_T.tolist())
    if axes.get_yscale() == "log":  # single steps near 0 would squeeze the curve
        axes.set_ylim(0.5 * float(smooth.y_T.min()), 1.3 * float(raw.y_T.max()))
    axes.legend(loc="upper right", ncols=2)


def snapshots_chart(measured: Measured) -> bytes:
    """Validation NLL and accuracy of each snapshot."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        cycles = [s.cycle for s in measured.run.snapshots]
        panels = (
            (left, "nll", "Validation NLL", "NLL (nats)", ORANGE),
            (right, "accuracy", "Validation accuracy", "accuracy", GREEN),
        )
        for axes, name, title, label, colour in panels:
            values = [s[name] for s in measured.snapshots]
            axes.plot(cycles, values, "-o", color=colour, linewidth=1, markersize=6)
            best = min(values) if name == "nll" else max(values)
            where = [c for c, value in zip(cycles, values, strict=True) if value == best]
            ring = {"color": "none", "markeredgecolor": INK, "markersize": 12, "label": "best"}
            axes.plot(where, [best] * len(where), "o", **ring)
            axes.set(title=title, xlabel=f"{measured.cycle_word} of the snapshot", ylabel=label)
            whole_numbers(axes, cycles)
        log_if_wide(left, [s["nll"] for s in measured.snapshots])
        percent(right, [s["accuracy"] for s in measured.snapshots])
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper left")

    return png(3.8, draw)


def ensemble_chart(measured: Measured) -> bytes:
    """Figures of the last m and the best m beside the best single snapshot."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        _draw_growth(left, measured, "nll")
        _draw_growth(right, measured, "accuracy")
        left.set(title="Validation NLL of the average", ylabel="NLL (nats)")
        right.set(title="Validation accuracy of the average", ylabel="accuracy")
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=3)

    return png(4.1, draw)


def _draw_growth(axes: Axes, measured: Measured, name: str) -> None:
    def of(figures: Sequence[ValFigures]) -> list[float]:
        return [float(getattr(f, name)) for f in figures]

    sizes = list(range(1, len(measured.best_m) + 1))
    dot = 5 if len(sizes) <= FEW else 3
    best, last = of(measured.best_m), of(measured.last_m)
    single = best[0]
    axes.axhline(single, color=INK, linestyle=":", linewidth=1.3, label="best single snapshot")
    # Wider and below, so that both are seen where they are the same.
    axes.plot(sizes, last, "-s", color=ORANGE, linewidth=3.2, markersize=dot + 3, label="last m")
    axes.plot(sizes, best, "-o", color=BLUE, markersize=dot, label="best m by validation NLL")
    axes.set_xlabel("m, snapshots averaged")
    whole_numbers(axes, sizes)
    if name == "accuracy":
        percent(axes, [*best, *last, single])


def snapshot_pairs_chart(measured: Measured) -> bytes:
    """How far each two snapshots disagree."""
    word = measured.cycle_word
    return disagreement_chart(
        measured.disagreement_SS,
        [str(snapshot.cycle) for snapshot in measured.run.snapshots],
        xlabel=f"{word} of one snapshot",
        ylabel=f"{word} of the other",
        images="validation images",
    )


CHARTS: dict[str, Callable[[Measured], bytes]] = {
    "learning-rate": rate_chart,
    "curves": curves_chart,
    "snapshots": snapshots_chart,
    "ensemble": ensemble_chart,
    "disagreement": snapshot_pairs_chart,
}
