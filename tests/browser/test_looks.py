"""What can be read, on a desk and on a phone, by day and by night."""

import base64
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.tab import BEST, PREDICT, Held, answer, drop, play, png, wait_until
from tests.factories import encoded, picture

LEAST_CONTRAST = 4.5  # WCAG 2.2, 1.4.3, for text of any size
LONG = "a-name-without-a-place-to-break-it-" * 4
# Text, and its contrast with what lies behind it, for every text that is shown (WCAG 2.2, the
# definitions of relative luminance and contrast ratio).
CONTRASTS = """() => {
    const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const parsed = colour => {
        pen.clearRect(0, 0, 1, 1);
        pen.fillStyle = colour;
        pen.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = ([r, g, b, a], below) => [r, g, b].map((c, k) => a * c + (1 - a) * below[k]);
    const luminance = colour => colour.map(c => c / 255)
        .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
    const ground = element => {
        if (!element) return parsed("Canvas").slice(0, 3);
        const colour = parsed(getComputedStyle(element).backgroundColor);
        return colour[3] === 1 ? colour.slice(0, 3) : over(colour, ground(element.parentElement));
    };
    const found = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const element = walk.currentNode.parentElement.closest(":not(option)");
        if (!walk.currentNode.data.trim() || !element.checkVisibility()) continue;
        const behind = ground(element), style = getComputedStyle(element);
        const [one, other] = [over(parsed(style.color), behind), behind].map(luminance);
        const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        found.push([walk.currentNode.data.trim(), ratio]);
    }
    return found;
}"""


def contrasts(page: Page) -> dict[str, float]:
    """The lowest contrast of each text."""
    found: list[tuple[str, float]] = page.evaluate(CONTRASTS)
    lowest: dict[str, float] = {}
    for text, ratio in found:
        lowest[text] = min(ratio, lowest.get(text, 99))
    return lowest


def fill(page: Page, server: str) -> None:
    """Bring all that the page can show onto it at once."""
    play(page, classes=["ant", "bee", "cow"], abstain=[0.01, 0.05], explain=True)
    replies: list[dict[str, Any]] = [
        {"json": answer("bee", prediction_set={"coverage": 0.9, "classes": ["bee", "cow"]})},
        {"json": answer("ant", 0.5, abstain=True)},
        {"status": 502, "body": "<html>", "content_type": "text/html"},
    ]
    page.goto(server)
    expect(page.locator("#risk")).to_be_visible()
    held = Held(page, PREDICT)
    drop(page, {"one.png": png(), f"{LONG}.png": png(), "three.png": png(), "four.png": png()})
    *asked, _ = (held.next() for _ in range(4))  # the last one stays under way
    for route, reply in zip(asked, replies, strict=True):
        route.fulfill(**reply)
    expect(page.get_by_role("status")).to_have_text("2 of 4 pictures answered, 1 not")
    bee = page.locator("#list > li", has=page.locator(BEST, has_text="bee"))  # whichever it was
    bee.locator("summary").click()
    bee.get_by_role("button", name="Why?").click()
    grey = base64.b64encode(encoded(picture(mode="L"))).decode()
    maps = [
        {"class": name, "index": k, "png": grey, "low": 0.0, "high": 1.0}
        for k, name in enumerate(("bee", "cow"))
    ]
    held.next().fulfill(json=answer("bee", explanation=maps))
    expect(page.locator(".stage canvas")).to_have_count(2)
    page.evaluate("wantToken()")
    page.get_by_text("From a terminal").click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_every_text_stands_out_and_nothing_is_wider_than_the_window(
    page: Page, server: str, width: int, scheme: Any
) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    fill(page, server)
    found = contrasts(page)
    for text in ("insects", "Choose pictures", "Not sure enough to answer. Likeliest:", "Asking…"):
        assert text in found
    assert len(found) > 30
    assert {text: ratio for text, ratio in found.items() if ratio < LEAST_CONTRAST} == {}
    wide, window = page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
    assert wide <= window == width


@pytest.mark.parametrize(
    ("colour", "ratio"), [("#767676", 4.54), ("#777", 4.48), ("#fff", 1), ("#000", 21)]
)
def test_the_measure_of_contrast_knows_what_others_have_measured(
    page: Page, colour: str, ratio: float
) -> None:
    page.set_content(f'<body style="color: {colour}; background: #fff">text')
    assert contrasts(page) == {"text": pytest.approx(ratio, abs=0.01)}


def test_a_name_as_long_as_the_window_hides_no_button(phone: Page, server: str) -> None:
    phone.goto(server)
    drop(phone, {f"{LONG}.png": png()})
    remove = phone.get_by_label(f"Remove {LONG}.png")
    box = remove.bounding_box()
    assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 360
    wait_until(phone, lambda: phone.locator(".thumb canvas").count() == 1)
    remove.tap()
    expect(phone.locator("#answers")).to_be_hidden()
