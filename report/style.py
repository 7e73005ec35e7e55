"""How the pictures look: colours, sizes, and a figure as the bytes of a PNG."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter, StrMethodFormatter
from PIL import Image

# Three colours of Okabe & Ito (2008), told apart with every common colour vision.
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
INK, FAINT = "#222222", "#9a9a9a"
WIDTH = 9.0  # inches: 900 pixels on the page, 1440 in the file
DPI = 160
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
    """A third of the bytes, in 256 colours that the eye cannot tell from all of them."""
    method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
    small = io.BytesIO()
    with Image.open(picture) as image:
        image.convert("RGB").quantize(256, method, dither=dither).save(small, "png", optimize=True)
    return small.getvalue()


def whole_numbers(axes: Axes, values: Sequence[int]) -> None:
    """Ticks at whole numbers only, all of them if they are few."""
    if len(values) <= 16:
        axes.set_xticks(list(values))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.set_xlim(values[0] - 0.5, values[-1] + 0.5)


def percent(axes: Axes, values: Sequence[float]) -> None:
    """The vertical axis in percent, with as many decimals as the range needs."""
    spread = max(values) - min(values)
    low, high = min(values) - 0.08 * spread, max(values) + 0.08 * spread
    if spread < 0.002:  # one image more or less should not fill the picture
        low, high = low - 0.005, high + 0.005
    high = min(high, 1 + 0.03 * (1 - low))  # no tick above all
    axes.set_ylim(max(low, -0.02), high)
    # Whole steps, and a decimal where they are below one percent: 2.5 would be labelled 2 or 3.
    axes.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
    decimals = 0 if high - low > 0.09 else 1
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=decimals))


def log_if_wide(axes: Axes, values: Sequence[float], ratio: float = 20.0) -> None:
    """A logarithmic vertical axis where the values span more than `ratio`, and none is 0."""
    if min(values) > 0 and max(values) / min(values) > ratio:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        few = max(values) / min(values) < 30  # within a decade or so its parts are numbered too
        axes.yaxis.set_minor_formatter(
            FuncFormatter(lambda x, _: f"{x:g}" if few and f"{x:e}"[0] in "235" else "")
        )
        axes.grid(visible=True, which="minor", color="#f1f1f1", linewidth=0.6)


def shade(axes: Axes, edges: Sequence[float]) -> None:
    """Every second interval between the edges grey, if they are not too many to tell apart."""
    if len(edges) <= 81:
        for left, right in zip(edges[1::2], edges[2::2], strict=False):
            axes.axvspan(left, right, color="#f3f3f3", zorder=0, linewidth=0)
