"""How a picture comes into a frame of another shape: it covers it, is padded, or is stretched."""

from typing import Literal

from PIL import Image

Fit = Literal["cover", "pad", "stretch"]


def fitted(flat: Image.Image, *, height: int, width: int, fit: Fit) -> Image.Image:
    """Scale a picture into a frame, antialiased and bilinear; one of its size stays exact.

    Args:
        flat: of mode "RGB" or "L".
        height: of the frame, in pixels.
        width: of the frame, in pixels.
        fit: `cover` scales until both sides are at least the frame's and cuts the overhang off
            evenly; `pad` scales until both fit inside and makes the rest white, evenly; `stretch`
            scales each side on its own.
    """
    if flat.size == (width, height):
        return flat
    if fit == "stretch":
        return flat.resize((width, height), Image.Resampling.BILINEAR)
    if fit == "pad":
        return _padded(flat, height, width)
    scale = max(width / flat.width, height / flat.height)
    span_x, span_y = width / scale, height / scale
    left, top = max((flat.width - span_x) / 2, 0.0), max((flat.height - span_y) / 2, 0.0)
    # Rounding must not carry the box over the edge.
    box = (left, top, min(left + span_x, flat.width), min(top + span_y, flat.height))
    return flat.resize((width, height), Image.Resampling.BILINEAR, box=box)


def reduction(width: int, height: int, target: tuple[int, int], fit: Fit) -> int:
    """The factor 1, 2, 4 or 8 by which a JPEG may be reduced before it is scaled into the frame.

    What is left is at least twice what the frame shows, which keeps the quality. It is the shorter
    side that has to reach so far to cover a frame, and for stretching too; to be padded, the longer
    one. The picture may still be turned by a quarter: the frame's longer side counts for both.

    Args:
        width: of the picture as it is stored, in pixels.
        height: of the picture as it is stored, in pixels.
        target: the frame's width and height, in pixels.
        fit: see `fitted`.
    """
    side = 2 * max(target)
    times = max(width, height) if fit == "pad" else min(width, height)
    # No side may be reduced below a pixel.
    most = min(times // side, width, height)
    return next((factor for factor in (8, 4, 2) if most >= factor), 1)


def _padded(flat: Image.Image, height: int, width: int) -> Image.Image:
    scale = min(width / flat.width, height / flat.height)
    size = max(1, round(flat.width * scale)), max(1, round(flat.height * scale))
    # White, as what is transparent: docs/decisions/0040-how-a-picture-fits.md.
    frame = Image.new(flat.mode, (width, height), "white")
    inside = flat if size == flat.size else flat.resize(size, Image.Resampling.BILINEAR)
    frame.paste(inside, ((width - size[0]) // 2, (height - size[1]) // 2))
    return frame
