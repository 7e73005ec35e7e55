"""The table that the page gives away, read back as a spreadsheet would."""

import csv
import io
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Page, expect

from tests.browser.tab import PREDICT, answer, drop, play, png

HEAD = ["file", "class", "probability", "prediction_set", "abstain", "error"]
FORMULAS = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")


def table(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline="")))


def test_the_table_holds_what_the_page_shows(page: Page, server: str) -> None:
    play(page)
    sets: dict[str, Any] = {"prediction_set": {"coverage": 0.9, "classes": ["bee", "cow"]}}
    page.route(PREDICT, lambda route: route.fulfill(json=answer("bee", **sets)), times=1)
    page.goto(server)
    drop(page, {'=1+1, "as one says".png': png()})
    expect(page.get_by_role("status")).to_have_text("1 of 1 picture answered")
    drop(page, {"größe.txt": b"no picture"})  # which the real server refuses
    expect(page.get_by_role("status")).to_have_text("1 of 2 pictures answered, 1 not")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == "predictions.csv"
    data = Path(download.value.path()).read_bytes()
    assert data.startswith(b"\xef\xbb\xbf"), "Excel would take it for Latin-1"
    message = page.locator(".problem p").last.inner_text()
    assert table(data.decode()) == [
        HEAD,
        ['\'=1+1, "as one says".png', "bee", "0.75", "bee; cow", "", ""],
        ["größe.txt", "", "", "", "", message],
    ]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.text(st.sampled_from(" =+-@\"',;\t\r\n\uff1dä😀a0") | st.characters(codec="utf-8")),
        min_size=1,
        max_size=5,
    )
)
def test_any_text_comes_back_whole_and_none_is_a_formula(
    page: Page, server: str, texts: list[str]
) -> None:
    if page.url == "about:blank":
        page.goto(server)
    (head, row) = table(page.evaluate("texts => csv([texts])", texts))
    assert head == HEAD
    for text, cell in zip(texts, row, strict=True):
        assert cell in (text, f"'{text}")
        assert not cell.strip(" ").startswith(FORMULAS)
