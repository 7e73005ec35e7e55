"""What the charts of runs and bundles share: colours, sizes, axes, a figure as PNG, a heat map.

Shapes: S networks: the snapshots of a run or the members of a bundle.
"""

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter, StrMethodFormatter
from PIL import Image

from snapensemble.contracts.metrics import Floats

# Three colours of Okabe & Ito (2008), told apart with every common colour vision.
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
INK, FAINT = "#222222", "#9a9a9a"
WIDTH = 9.0  # inches: 900 pixels on the page, 1440 in the file
DPI = 160
FEW = 12  # networks whose pairs can each have a number with a decimal
READABLE = 30  # networks whose pairs can have a number at all
SETTINGS: dict[str, Any] = {
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": "#777777",
    "axes.labelcolor": INK,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "path.simplify": True,
}


def png(height: float, draw: Callable[[Figure], None]) -> bytes:
    """Draw on a new figure of the page's width and `height` inches.

    Nothing of the user's own matplotlib settings is applied, and no window system is asked.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)  # type: ignore[arg-type] # its stubs list every name
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, pil_kwargs={"compress_level": 1})
    return _with_a_palette(buffer)


def _with_a_palette(picture: io.BytesIO) -> bytes:
    """The same picture in a third of the bytes: its 256 colours look like all of them."""
    method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
    small = io.BytesIO()
    with Image.open(picture) as image:
        image.convert("RGB").quantize(256, method, dither=dither).save(small, "png", optimize=True)
    return small.getvalue()


def whole_numbers(axes: Axes, values: Sequence[int]) -> None:
    """Put ticks at whole numbers only, at all of them if they are few."""
    if len(values) <= 16:
        axes.set_xticks(list(values))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.set_xlim(values[0] - 0.5, values[-1] + 0.5)


def percent(axes: Axes, values: Sequence[float]) -> None:
    """Show the vertical axis in percent, with as many decimals as the range needs."""
    spread = max(values) - min(values)
    low, high = min(values) - 0.08 * spread, max(values) + 0.08 * spread
    if spread < 0.002:  # one image more or less should not fill the picture
        low, high = low - 0.005, high + 0.005
    high = min(high, 1 + 0.03 * (1 - low))  # no tick above 100 %
    low = max(low, -0.02)
    ticks = MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(low, high)
    axes.set_yticks([tick for tick in ticks if low <= tick <= high])
    axes.set_ylim(low, high)
    # As many decimals as tell two ticks apart: a step of 0.05 % takes two.
    decimals = max(0, math.ceil(-math.log10(100 * (ticks[1] - ticks[0])) - 1e-9))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=decimals))


def log_if_wide(axes: Axes, values: Sequence[float], ratio: float = 20.0) -> None:
    """Make the vertical axis logarithmic where the values span more than `ratio` and none is 0."""
    if min(values) > 0 and max(values) / min(values) > ratio:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        few = max(values) / min(values) < 30  # within a decade or so its parts are numbered too
        axes.yaxis.set_minor_formatter(
            FuncFormatter(lambda x, _: f"{x:g}" if few and f"{x:e}"[0] in "235" else "")
        )
        axes.grid(visible=True, which="minor", color="#f1f1f1", linewidth=0.6)


def shade(axes: Axes, edges: Sequence[float]) -> None:
    """Make every second interval between the edges grey, if they are few enough to tell apart."""
    if len(edges) <= 81:
        for left, right in zip(edges[1::2], edges[2::2], strict=False):
            axes.axvspan(left, right, color="#f3f3f3", zorder=0, linewidth=0)


def disagreement_chart(
    disagreement_SS: Floats, names: Sequence[str], *, xlabel: str, ylabel: str, images: str
) -> bytes:
    """Draw how often each two networks disagree, as a heat map.

    Args:
        disagreement_SS: the fraction of images on which the top classes of two networks differ.
        names: what stands at the rows and columns.
        xlabel: what the columns are.
        ylabel: what the rows are.
        images: which images the networks answered, for the label of the colour bar.
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
