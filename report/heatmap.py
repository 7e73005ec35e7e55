"""How often the top classes of two networks differ, as a picture.

Shapes: S networks: the snapshots of a run or the members of a bundle.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from contracts.figures import Floats
from report.style import FAINT, INK, png

FEW = 12  # networks whose pairs can each have a number with a decimal
READABLE = 30  # those whose pairs can have a number at all


def disagreement_chart(
    disagreement_SS: Floats, names: Sequence[str], *, xlabel: str, ylabel: str, images: str
) -> bytes:
    """A heat map of the pairs.

    Args:
        disagreement_SS: the fraction of images on which the top classes of two networks differ.
        names: what stands at the rows and columns.
        xlabel: what the columns are.
        ylabel: what the rows are.
        images: which images were asked about, for the bar of colours.
    """
    S = len(disagreement_SS)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid(visible=False)
        masked_SS = np.where(np.eye(S, dtype=bool), np.nan, disagreement_SS)
        top = max(float(disagreement_SS.max()), 0.01)
        picture = axes.imshow(masked_SS, cmap="Blues", aspect="auto", vmin=0, vmax=top)
        if S <= READABLE:
            _write_numbers(axes, disagreement_SS, picture.get_cmap(), top)
        shown = range(0, S, 1 + (S - 1) // 24)
        axes.set_xticks(list(shown), [names[i] for i in shown])
        axes.set_yticks(list(shown), [names[i] for i in shown])
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(picture, ax=axes, format=StrMethodFormatter("{x:.1%}"))
        bar.set_label(f"{images} with another top class")
        bar.outline.set_visible(False)

    return png(min(7.0, 2.2 + 0.35 * S), draw)


def _write_numbers(axes: Axes, disagreement_SS: Floats, colours: Colormap, top: float) -> None:
    decimals, size = (1, 10) if len(disagreement_SS) <= FEW else (0, 6.5)
    for (row, column), value in np.ndenumerate(disagreement_SS):
        if row == column:
            axes.text(column, row, "–", ha="center", va="center", color=FAINT, fontsize=size)
            continue
        red, green, blue, _ = colours(value / top)
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
        axes.text(
            column,
            row,
            f"{100 * value:.{decimals}f}",
            ha="center",
            va="center",
            color="white" if dark else INK,
            fontsize=size,
        )
