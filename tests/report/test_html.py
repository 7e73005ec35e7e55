import re
from html.parser import HTMLParser
from inspect import getfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

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
