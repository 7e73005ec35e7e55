"""The pictures of what serving costs and of prediction sets; each returns the bytes of a PNG."""

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from contracts.bundle import Precision
from contracts.prediction_sets import METHODS
from contracts.records import Figures
from report.bundle_options import cost
from report.bundle_records import Option, SetFigures
from report.evidence import SpeedRecord
from report.style import BLUE, FAINT, GREEN, INK, ORANGE, percent, png

COLOURS: dict[Precision, str] = {"fp32": BLUE, "int8": ORANGE}
BINS = ((6, 10), (11, 20), (21, 50), (51, 100), (101, 200), (201, 500), (501, 1000), (1001, 10**9))


def cost_chart(
    options: Sequence[Option], speed: SpeedRecord | None, single: tuple[float, Figures], xlabel: str
) -> bytes:
    """NLL and accuracy over cost, with the cost of one fp32 member as a line.

    Args:
        options: ways to serve.
        speed: turns int8 members into units of fp32 ones.
        single: cost and figures of the first member alone.
        xlabel: what a unit of cost is.
    """
    one = len({o.precision for o in options}) == 1

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for axes, name in ((left, "nll"), (right, "accuracy")):
            axes.axvline(1.0, color=FAINT, linestyle="--", linewidth=1.2, label="price of one")
            _draw_options(axes, options, speed, name)
            x, figures = single
            axes.plot(
                [x], [getattr(figures, name)], "^", color=INK, markersize=8, label="first member"
            )
            axes.set_xlabel(xlabel)
            axes.margins(x=0.06)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
            if name == "accuracy":
                percent(axes, [figures.accuracy, *(o.figures.accuracy for o in options)])
        left.set(title="NLL", ylabel="NLL (nats)")
        right.set(title="Accuracy", ylabel="accuracy")
        figure.legend(
            *left.get_legend_handles_labels(), loc="outside upper left", ncols=5 if one else 4
        )

    return png(4.4, draw)


def _draw_options(
    axes: Axes, options: Sequence[Option], speed: SpeedRecord | None, name: str
) -> None:
    several = len({o.precision for o in options}) > 1
    for precision, colour in COLOURS.items():
        which = f", {precision}" if several else ""
        ours = [o for o in options if o.precision == precision]

        def points(chosen: Iterable[Option]) -> tuple[list[float], list[float]]:
            chosen = list(chosen)
            return [cost(o, speed) for o in chosen], [getattr(o.figures, name) for o in chosen]

        cascade = [o for o in ours if o.cascade]
        if cascade:
            label = f"cascade{which}"
            axes.plot(
                *points(cascade), "-o", color=colour, markersize=4, linewidth=1.2, label=label
            )
        active = [o for o in cascade if o.active]
        if active:
            axes.plot(
                *points(active),
                "o",
                color="none",
                markeredgecolor=colour,
                markeredgewidth=1.8,
                markersize=13,
                label=f"in use{which}",
            )
        full = [o for o in ours if not o.cascade]
        if full:
            axes.plot(
                *points(full),
                "s",
                color=colour,
                markeredgecolor="white",
                markersize=10,
                zorder=4,
                label=f"every member{which}",
            )


def sets_chart(sets: Sequence[SetFigures]) -> bytes:
    """How large the sets are: a row for every member and for the cascade, a column per method."""
    rows = [kind for kind in (False, True) if any(s.cascade is kind for s in sets)]
    columns = [method for method in METHODS if any(s.method == method for s in sets)]
    groups = size_groups(size for s in sets for size, _ in s.sizes)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(len(rows), len(columns), sharey=True, sharex=True, squeeze=False)
        for row, cascade in zip(grid, rows, strict=True):
            for axes, method in zip(row, columns, strict=True):
                chosen = [s for s in sets if s.cascade is cascade and s.method == method]
                _draw_sizes(axes, chosen, groups)
                who = "cascade" if cascade else "every member"
                axes.set_title(f"{who}: {method.replace('_', ' ')}")
            row[0].set_ylabel("share of the images")
        for axes in grid[-1]:
            axes.set_xlabel("classes in the set")
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=4)

    return png(1.2 + 2.3 * len(rows), draw)


def size_groups(sizes: Iterable[int]) -> list[tuple[int, int]]:
    """Sizes to draw as one bar each, as (smallest, largest): alone up to 5 or 10, then wider."""
    top = max(sizes)
    single = 10 if top <= 10 else 5
    alone = [(size, size) for size in range(1, min(top, single) + 1)]
    return alone + [(low, min(high, top)) for low, high in BINS if single < low <= top]


def _draw_sizes(axes: Axes, sets: Sequence[SetFigures], groups: list[tuple[int, int]]) -> None:
    colours, width = (BLUE, ORANGE, GREEN), 0.84 / max(len(sets), 1)
    for number, (figures, colour) in enumerate(zip(sets, colours, strict=False)):
        images = sum(count for _, count in figures.sizes)
        heights = [
            sum(count for size, count in figures.sizes if low <= size <= high) / images
            for low, high in groups
        ]
        left = [i - 0.42 + (number + 0.5) * width for i in range(len(groups))]
        label = f"{figures.promised:.0%} promised"
        axes.bar(left, heights, width, color=colour, label=label)
    names = [f"{low}" if low == high else f"{low}–{high}" for low, high in groups]
    axes.set_xticks(range(len(groups)), names)
    if any(low != high for low, high in groups):  # the words are wider than their bars
        axes.tick_params(axis="x", labelrotation=45)
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
