"""The charts of a bundle; each function draws one and returns the bytes of a PNG."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, PercentFormatter

from snapensemble.contracts.bundle import BundleManifest, Precision
from snapensemble.contracts.prediction_sets import METHODS
from snapensemble.report.bundle.options import cost, precision_of
from snapensemble.report.bundle.records import (
    AnswerFigures,
    BundleFigures,
    Option,
    Reliability,
    Selective,
    SetFigures,
)
from snapensemble.report.bundle.words import images_of
from snapensemble.report.plots import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    disagreement_chart,
    percent,
    png,
    whole_numbers,
)

COLOURS: dict[Precision, str] = {"fp32": BLUE, "int8": ORANGE}
BINS = ((6, 10), (11, 20), (21, 50), (51, 100), (101, 200), (201, 500), (501, 1000), (1001, 10**9))
FEW = 12  # members that can each have a large dot
GAPS = (  # sign of confidence less accuracy, and how it is drawn
    (1, ORANGE, "////", "surer than right"),
    (-1, GREEN, "\\\\\\\\", "righter than sure"),
)


def draw_charts(
    bundle: BundleManifest, figures: BundleFigures, answers: AnswerFigures
) -> dict[str, bytes]:
    """Draw the charts that the bundle has numbers for, under the names that its template uses."""
    several, T = len(bundle.members) > 1, bundle.temperature
    panels = [("without a temperature", answers.reliability_before)]
    if T != 1:
        panels.append((f"with the temperature {T:.3g}", answers.reliability_after))
    single = answers.selective_single if several else None
    charts = {
        "calibration": reliability_chart(panels),
        "sureness": selective_chart(answers.selective, single, images_of(figures)),
    }
    if several:
        charts["growth"] = growth_chart(answers)
        charts["disagreement"] = member_pairs_chart(bundle, figures, answers)
    if several or len({option.precision for option in answers.options}) > 1:
        charts["costs"] = cost_chart(bundle, figures, answers)
    if answers.sets:
        charts["sets"] = sets_chart(answers.sets)
    return charts


def growth_chart(answers: AnswerFigures) -> bytes:
    """NLL and accuracy of the average of the first 1, 2, ..., M members, and of each alone."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for axes, name in ((left, "nll"), (right, "accuracy")):
            alone = [getattr(f, name) for f in answers.members]
            average = [getattr(f, name) for f in answers.growth]
            sizes = list(range(1, len(average) + 1))
            size = 6 if len(sizes) <= FEW else 4
            axes.plot(
                sizes, average, "-o", color=BLUE, markersize=size, label="the first m averaged"
            )
            axes.plot(
                sizes,
                alone,
                "D",
                color="none",
                markeredgecolor=ORANGE,
                markeredgewidth=1.6,
                markersize=size + 2,
                label="the m-th member alone",
            )
            axes.set_xlabel("m, members in the bundle's order")
            whole_numbers(axes, sizes)
            if name == "accuracy":
                percent(axes, [*alone, *average])
        left.set(title="NLL", ylabel="NLL (nats)")
        right.set(title="Accuracy", ylabel="accuracy")
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=2)

    return png(3.9, draw)


def reliability_chart(panels: Sequence[tuple[str, Reliability]]) -> bytes:
    """Accuracy by confidence in equal-width bins, one panel each; below, the images in each bin."""

    def draw(figure: Figure) -> None:
        grid = figure.subplots(
            2, len(panels), sharex=True, squeeze=False, height_ratios=[3, 1.2], sharey="row"
        )
        for (title, bins), (upper, lower) in zip(panels, grid.T, strict=True):
            _draw_gaps(upper, bins)
            upper.set_title(title)
            _draw_counts(lower, bins.images)
        grid[0, 0].set_ylabel("accuracy")
        grid[1, 0].set_ylabel("images")
        handles = [Patch(color=BLUE, label="accuracy")]
        handles += [
            Patch(facecolor="white", edgecolor=colour, hatch=hatch, label=label)
            for _, colour, hatch, label in GAPS
        ]
        line = Line2D([], [], color=INK, linestyle=":", linewidth=1.3, label="as sure as right")
        figure.legend(handles=[*handles, line], loc="outside upper left", ncols=4)

    return png(5.4, draw)


def _draw_gaps(axes: Axes, bins: Reliability) -> None:
    J = len(bins.images)
    bars = [
        ((j + 0.5) / J, confidence, accuracy)
        for j, (confidence, accuracy) in enumerate(zip(bins.confidence, bins.accuracy, strict=True))
        if confidence is not None and accuracy is not None
    ]
    middles, confidences, accuracies = (np.array(column) for column in zip(*bars, strict=True))
    width = 0.92 / J
    axes.bar(middles, accuracies, width, color=BLUE)
    for sign, colour, hatch, _ in GAPS:
        gaps = np.maximum(sign * (confidences - accuracies), 0)
        axes.bar(
            middles[gaps > 0],
            gaps[gaps > 0],
            width,
            np.minimum(confidences, accuracies)[gaps > 0],
            facecolor="white",
            edgecolor=colour,
            hatch=hatch,
            linewidth=0.9,
        )
    axes.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1.3)
    axes.set(xlim=(-0.03, 1.03), ylim=(0, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _draw_counts(axes: Axes, images: Sequence[int]) -> None:
    J = len(images)
    axes.bar([(j + 0.5) / J for j in range(J)], images, 0.92 / J, color="#8a8a8a")
    axes.set_yscale("log")
    axes.set_ylim(0.7, 2 * max(images))
    axes.yaxis.set_major_locator(LogLocator(numticks=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x >= 1 else ""))
    axes.yaxis.minorticks_off()
    axes.set_xlabel("confidence: probability of the top class")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def selective_chart(
    ensemble: Sequence[Selective], single: Sequence[Selective] | None, word: str
) -> bytes:
    """Accuracy of the surest images over how many are answered."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        lines = [(ensemble, BLUE, "-o", "the ensemble")]
        if single is not None:
            lines.append((single, ORANGE, "--s", "the first member alone"))
        for steps, colour, style, label in lines:
            axes.plot(
                [s.answered for s in steps],
                [s.accuracy for s in steps],
                style,
                color=colour,
                markersize=4.5,
                label=label,
                clip_on=False,
            )
        axes.set(xlabel=f"share of the {word} answered, surest first", xlim=(0, 1))
        axes.set_ylabel("accuracy of those answered")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        percent(axes, [s.accuracy for steps, *_ in lines for s in steps])
        if single is not None:
            axes.legend(loc="lower left")

    return png(3.5, draw)


def member_pairs_chart(
    bundle: BundleManifest, figures: BundleFigures, answers: AnswerFigures
) -> bytes:
    """How far each two members disagree."""
    M, names = len(bundle.members), [member.name for member in bundle.members]
    short = [name if len(name) <= 16 else f"{name[:15]}…" for name in names]
    return disagreement_chart(
        np.array(answers.disagreement),
        short if M <= 8 else [str(m) for m in range(1, M + 1)],
        xlabel="one member" if M <= 8 else "one member, by its place",
        ylabel="the other",
        images=images_of(figures),
    )


def cost_chart(bundle: BundleManifest, figures: BundleFigures, answers: AnswerFigures) -> bytes:
    """NLL and accuracy over cost, with the cost of one fp32 network as a line."""
    options, speed, precision = answers.options, figures.speed, precision_of(bundle)
    price = partial(cost, speed=speed, price=bundle.price)
    unit = "members asked per image"
    if precision == "int8" and speed is not None and speed.int8_time is not None:
        unit = "time per image (one fp32 network = 1)"
    elif bundle.trunk is not None and bundle.price is not None:
        unit = "operations per image (one network = 1)"
    one = len({o.precision for o in options}) == 1
    alone = options[0].model_copy(update={"precision": precision, "members_per_image": 1.0})
    first = answers.members[0]

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for axes, name in ((left, "nll"), (right, "accuracy")):
            axes.axvline(1.0, color=FAINT, linestyle="--", linewidth=1.2, label="price of one")
            _draw_options(axes, options, price, name)
            axes.plot(
                [price(alone)],
                [getattr(first, name)],
                "^",
                color=INK,
                markersize=8,
                label="first member",
            )
            axes.set_xlabel(unit)
            axes.margins(x=0.06)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
            if name == "accuracy":
                percent(axes, [first.accuracy, *(o.figures.accuracy for o in options)])
        left.set(title="NLL", ylabel="NLL (nats)")
        right.set(title="Accuracy", ylabel="accuracy")
        figure.legend(
            *left.get_legend_handles_labels(), loc="outside upper left", ncols=5 if one else 4
        )

    return png(4.4, draw)


def _draw_options(
    axes: Axes, options: Sequence[Option], price: Callable[[Option], float], name: str
) -> None:
    several = len({o.precision for o in options}) > 1
    for precision, colour in COLOURS.items():
        which = f", {precision}" if several else ""
        ours = [o for o in options if o.precision == precision]

        def points(chosen: Iterable[Option]) -> tuple[list[float], list[float]]:
            chosen = list(chosen)
            return [price(o) for o in chosen], [getattr(o.figures, name) for o in chosen]

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
    """The sizes that one bar stands for, as (smallest, largest): one up to 5 or 10, then more."""
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
