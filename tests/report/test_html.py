import re
from html.parser import HTMLParser
from inspect import getfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from snapensemble.report.bundle.confusion import SHADES
from snapensemble.report.html import render

TEMPLATES = Path(getfile(render)).parent / "templates"
TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1)


class Content(HTMLParser):
    """The tags of a page, and all texts between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@given(title=TEXTS, sentence=TEXTS)
def test_any_text_is_shown_as_it_is_and_adds_no_tag(title: str, sentence: str) -> None:
    plain = Content(render("page.html.j2", title="t", summary=["s"]))
    found = Content(render("page.html.j2", title=title, summary=[sentence]))
    assert found.tags == plain.tags
    assert found.texts.count(title) >= 2 and sentence in found.texts


def luminance(colour: tuple[float, float, float]) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2)."""
    parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    """The contrast of two colours, 1 to 21 (WCAG 2.2)."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(
    ("text", "page"),
    [((0, 0, 0), (255, 255, 255)), ((0xE6, 0xE6, 0xE6), (0x16, 0x18, 0x1C))],
    ids=["light", "dark"],
)
def test_numbers_can_be_read_on_every_shade(
    text: tuple[float, float, float], page: tuple[float, float, float]
) -> None:
    css = render("page.html.j2", title="t", summary=["s"])
    assert "background: #16181c" in css or "--page: #16181c" in css
    assert "color: #e6e6e6" in css and "--page: #fff" in css
    shades = re.findall(r"background: rgb\((\d+) (\d+) (\d+) / ([\d.]+)\)", css)
    assert len(shades) == SHADES
    for *colour, share in shades:
        mixed = [
            float(share) * float(ours) + (1 - float(share)) * under
            for ours, under in zip(colour, page, strict=True)
        ]
        assert contrast(text, (mixed[0], mixed[1], mixed[2])) >= 4.5


def test_a_value_that_a_template_misses_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="summary"):
        render("page.html.j2", title="t")


def test_there_is_one_table_one_style_sheet_and_nothing_unescaped_but_the_generator() -> None:
    texts = {file.name: file.read_text() for file in TEMPLATES.iterdir()}
    whole = "".join(texts.values())
    assert [name for name, text in texts.items() if "<table" in text] == ["macros.html.j2"]
    assert whole.count("<table") == whole.count("<style") == 1 and "style=" not in whole
    assert re.findall(r"\S+ *\| *safe", whole) == ["generator | safe"]
    assert "autoescape" not in whole


def test_a_name_that_is_no_utf_8_is_shown_as_its_bytes() -> None:
    page = render("page.html.j2", title="photos\udcff", summary=["s"])
    assert "<title>photos\\udcff</title>" in page and page.encode()
