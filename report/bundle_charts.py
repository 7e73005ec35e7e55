"""The pictures of how good a bundle's answers are; each function returns the bytes of a PNG."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, PercentFormatter

from report.bundle_records import AnswerFigures, Reliability, Selective
from report.style import BLUE, GREEN, INK, ORANGE, percent, png, whole_numbers

FEW = 12  # members that can each have a large dot
GAPS = (  # sign of confidence less accuracy, and how it is drawn
    (1, ORANGE, "////", "surer than right"),
    (-1, GREEN, "\\\\\\\\", "righter than sure"),
)


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
