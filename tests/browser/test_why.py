"""Why a picture got its answer, and answers that are withheld. The test plays the server."""

import base64
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.tab import PREDICT, Held, answer, best, drop, play, png, row
from tests.factories import encoded

FRAME = {"height": 60, "width": 60}


def heat_map(name: str, grey_HW: Any, low: float, high: float) -> dict[str, Any]:
    data = base64.b64encode(encoded(Image.fromarray(grey_HW))).decode()
    return {"class": name, "index": 0, "png": data, "low": low, "high": high}


def colours(page: Page, points: list[tuple[float, float]]) -> list[list[int]]:
    """What lies over the picture at places from (0, 0), left above, to (1, 1)."""
    found: list[list[int]] = page.locator(".stage canvas").last.evaluate(
        """(canvas, points) => points.map(([x, y]) => [...canvas.getContext("2d").getImageData(
            Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1).data])""",
        points,
    )
    return found


def explained(page: Page, server: str, fit: str, picture: bytes, *maps: dict[str, Any]) -> None:
    """Drop a picture, ask why, and have the test's maps drawn."""
    play(page, explain=True, image={**FRAME, "fit": fit})
    held = Held(page, PREDICT)
    page.goto(server)
    drop(page, {"one.png": picture})
    held.next().fulfill(json=answer("bee"))
    why = row(page, "one.png").get_by_role("button", name="Why?")
    expect(why).to_have_attribute("aria-expanded", "false")
    assert (held.waiting, held.seen) == (0, 1), "nothing is asked before it is wanted"
    why.click()
    route = held.next()
    assert "explain=true" in route.request.url
    route.fulfill(json=answer("bee", explanation=list(maps)))
    expect(page.locator(".stage canvas")).to_have_count(2)


# The left half of the frame spoke for the class, the right half against it. In a picture that is
# twice as wide as high the frame shows other parts for each fit.
HALVES = np.zeros((60, 60), np.uint8)
HALVES[:, :30] = 255
DARK, WARM, BLUE = "dark", "warm", "blue"


@pytest.mark.parametrize(
    ("fit", "expected"),
    [
        ("cover", [DARK, WARM, BLUE, DARK]),  # only the middle half is seen
        ("stretch", [WARM, WARM, BLUE, BLUE]),
        ("pad", [WARM, WARM, BLUE, BLUE]),
    ],
)
def test_the_map_lies_over_what_the_network_saw(
    page: Page, server: str, fit: str, expected: list[str]
) -> None:
    explained(page, server, fit, png(width=120, height=60), heat_map("bee", HALVES, -1.0, 1.0))
    found = []
    for r, g, b, a in colours(page, [(0.1, 0.5), (0.35, 0.5), (0.65, 0.5), (0.9, 0.5)]):
        assert a > 100
        found.append(WARM if r > b else BLUE if b > r else DARK)
        assert (r, g, b) == (0, 0, 0) or found[-1] != DARK
    assert found == expected


def test_of_a_padded_frame_only_the_picture_is_drawn(page: Page, server: str) -> None:
    """The bars above and below belong to no part of the picture."""
    bars = np.zeros((60, 60), np.uint8)
    bars[:15] = bars[45:] = 255  # a picture of 120 x 60 is 60 x 30 in the frame
    explained(page, server, "pad", png(width=120, height=60), heat_map("bee", bars, 0.0, 1.0))
    alphas = [a for *_, a in colours(page, [(0.5, y) for y in (0.1, 0.3, 0.5, 0.7, 0.9)])]
    assert max(alphas) < 40


@pytest.mark.parametrize("low", [0.0, 1.5])
def test_what_counted_least_leaves_the_picture_as_it_is(
    page: Page, server: str, low: float
) -> None:
    ramp = np.tile(np.linspace(0, 255, 60).astype(np.uint8), (60, 1))
    explained(page, server, "stretch", png(width=60, height=60), heat_map("bee", ramp, low, 2.0))
    alphas = [a for *_, a in colours(page, [(x, 0.5) for x in (0.02, 0.25, 0.5, 0.75, 0.98)])]
    assert alphas == sorted(alphas) and alphas[0] < 20 and alphas[-1] > 235


def test_one_chooses_the_class_and_how_strong_the_map_is(page: Page, server: str) -> None:
    flat = np.full((60, 60), 255, np.uint8)
    maps = heat_map("bee", flat, 0.0, 1.0), heat_map("cow", flat - 255, -3.0, -1.0)
    explained(page, server, "cover", png(width=60, height=60), *maps)
    assert colours(page, [(0.5, 0.5)])[0][0] > 200
    page.locator(".classes").get_by_role("button", name="cow").press("Enter")
    expect(page.get_by_text("Warm parts spoke for cow")).to_be_visible()
    assert colours(page, [(0.5, 0.5)])[0][2] > 200
    strength = page.get_by_label("Map")
    strength.focus()
    page.keyboard.press("Home")
    expect(page.locator(".stage canvas").last).to_have_css("opacity", "0")
    page.get_by_role("button", name="Hide why").press("Enter")
    expect(page.locator("figure")).to_be_hidden()


def test_a_server_that_cannot_say_why_is_shown_to_have_said_so(page: Page, server: str) -> None:
    play(page, explain=True)
    held = Held(page, PREDICT)
    page.goto(server)
    drop(page, {"one.png": png()})
    held.next().fulfill(json=answer("bee"))
    page.get_by_role("button", name="Why?").click()
    held.next().fulfill(json=answer("bee"))
    expect(page.locator("figure .state")).to_have_text("The server did not say why.")
    expect(best(page, "one.png")).to_have_text("bee")


def test_a_picture_that_the_browser_cannot_show_has_its_map_alone(page: Page, server: str) -> None:
    explained(page, server, "cover", b"II*\0 a TIFF", heat_map("bee", HALVES, -1.0, 1.0))
    expect(page.locator(".thumb")).to_have_text("no preview")
    left, right = colours(page, [(0.25, 0.5), (0.75, 0.5)])
    assert left[0] > left[2] and right[2] > right[0]


def test_an_answer_that_is_withheld_says_so_and_names_the_likeliest(
    page: Page, server: str
) -> None:
    play(page, abstain=[0.05, 0.01])
    held = Held(page, PREDICT)
    page.goto(server)
    drop(page, {"one.png": png()})
    route = held.next()
    assert "abstain" not in route.request.url
    route.fulfill(json=answer("bee"))
    page.get_by_label("Answer only where at most this share is wrong").select_option("0.01")
    route = held.next()
    assert "abstain=0.01" in route.request.url
    route.fulfill(json=answer("bee", abstain=True))
    expect(page.get_by_text("Not sure enough to answer. Likeliest:")).to_be_visible()
    expect(best(page, "one.png")).to_have_text("bee")
