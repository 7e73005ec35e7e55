"""Pieces of a page: one HTML file that needs nothing else. All text given here is escaped."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

GENERATOR = '<meta name="generator" content="snapensemble report">'
STYLE = files("report").joinpath("page.css").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG with its heading, the words below it, and the numbers for who cannot see it."""

    name: str
    title: str
    caption: str
    alt: str
    png: bytes

    @property
    def file(self) -> str:
        """What the picture is called where it lies beside its page."""
        return f"{self.name}.png"


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page of parts that are HTML already; empty ones are left out."""
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
            f"<h1>{escape(title)}</h1>",
            *filter(None, parts),
            "</main>",
            "",
        ]
    )


def section(title: str, *parts: str) -> str:
    """A heading, and below it parts that are HTML already."""
    content = "\n".join(filter(None, parts))
    return f"<section><h2>{escape(title)}</h2>\n{content}</section>"


def paragraph(text: str) -> str:
    """One paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def figure(picture: Picture) -> str:
    """A picture inside the page, its caption below it."""
    data = base64.b64encode(picture.png).decode()
    return (
        f'<figure><div class="card"><img alt="{escape(picture.alt)}" '
        f'src="data:image/png;base64,{data}"></div>\n'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = (), kind: str = "words") -> str:
    """Rows of plain text; `kind` is `words`, `numbers`, or `named`, numbers after a name."""
    lines = [f'<div class="wide"><table class="{kind}">']
    if head:
        lines.append(f"<thead>{_row(head, 'th')}</thead>")
    lines += [_row(row, "td") for row in rows]
    return "\n".join([*lines, "</table></div>"])


def bullets(texts: Iterable[str]) -> str:
    """A list of plain texts."""
    return "\n".join(["<ul>", *(f"<li>{escape(text)}</li>" for text in texts), "</ul>"])


def commands(rows: Sequence[tuple[str, str]]) -> str:
    """What to do, and the line that does it; nothing without rows."""
    if not rows:
        return ""
    items = "\n".join(
        f"<dt>{escape(what)}</dt><dd><code>{escape(line)}</code></dd>" for what, line in rows
    )
    return f"<dl>\n{items}\n</dl>"


def percents(fraction: float) -> str:
    """A fraction as people read it."""
    return f"{fraction:.2%}"


def _row(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
