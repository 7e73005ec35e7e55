"""What a person does with the page, and a server that a test plays."""

import base64
import json
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Locator, Page, Route

from tests.factories import CLASSES, encoded, picture

PREDICT = "**/predict?*"
BEST = ".top tr:first-child td:first-child"  # the likeliest class, in the line of a file
BEST = ".top tr:first-child td:first-child"  # the likeliest class, in the line of a file
FIRST, OTHER = "0badcafe", "feedbeef"  # versions of a bundle
MODEL: dict[str, Any] = {
    "name": "insects",
    "version": FIRST,
    "classes": CLASSES,
    "image": {"height": 6, "width": 5, "fit": "cover"},
    "members": [{"name": "cycle-00"}, {"name": "cycle-01"}],
    "mode": "full",
    "val": {"accuracy": 0.95},
    "calibration": {"sets": [{"coverage": 0.9}, {"coverage": 0.95}, {"coverage": 0.9}]},
}


def png(seed: int = 0, *, width: int = 50, height: int = 60) -> bytes:
    return encoded(picture(seed, width=width, height=height))


def drop(page: Page, files: dict[str, bytes]) -> None:
    """Let go of files over the page."""
    texts = {name: base64.b64encode(data).decode() for name, data in files.items()}
    transfer = page.evaluate_handle(
        """files => {
            const transfer = new DataTransfer();
            for (const [name, text] of Object.entries(files)) {
                const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
                transfer.items.add(new File([bytes], name));
            }
            return transfer;
        }""",
        texts,
    )
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})


def row(page: Page, name: str) -> Locator:
    """The line of the list that is about a file."""
    return page.locator("#list > li", has=page.get_by_text(name, exact=True))


def best(page: Page, name: str) -> Locator:
    """The likeliest class of a file, where it is shown."""
    return row(page, name).locator(BEST)


def answer(
    name: str, probability: float = 0.75, version: str = FIRST, **more: Any
) -> dict[str, Any]:
    """What a server says of one picture whose second class has the rest of the probability."""
    first = CLASSES.index(name)
    second = (first + 1) % len(CLASSES)
    probabilities = [0.0] * len(CLASSES)
    probabilities[first], probabilities[second] = probability, 1 - probability
    top = [
        {"class": CLASSES[k], "index": k, "probability": probabilities[k]} for k in (first, second)
    ]
    members = [
        {"name": member["name"], "weight": 0.5, "probabilities": probabilities}
        for member in MODEL["members"]
    ]
    uncertainty = {"entropy_nats": 0.5, "disagreement_nats": 0.0}
    prediction = {**top[0], "top": top, "members": members, "uncertainty": uncertainty}
    prediction |= {"members_used": 2, **more}
    return {"predictions": [prediction], "model": {"name": "insects", "version": version}}


class Held:
    """Requests that wait until the test answers them."""

    def __init__(self, page: Page, pattern: str) -> None:
        self._page = page
        self._routes: list[Route] = []
        self.seen = 0
        page.route(pattern, self._hold)

    def _hold(self, route: Route) -> None:
        self._routes.append(route)
        self.seen += 1

    def next(self) -> Route:
        """The request that has waited longest; it may still be on its way."""
        wait_until(self._page, lambda: bool(self._routes))
        return self._routes.pop(0)

    @property
    def waiting(self) -> int:
        """How many wait now, of all that the page has sent."""
        self._page.evaluate("1")  # what was sent before has come when this has
        return len(self._routes)


def play(page: Page, **changes: Any) -> None:
    """Answer GET model as a server with other abilities would."""
    page.route("**/model", lambda route: route.fulfill(json={**MODEL, **changes}))


def wait_until(page: Page, condition: Callable[[], bool], turns: int = 10_000) -> None:
    """Let the browser's events come until a condition holds."""
    for _ in range(turns):
        if condition():
            return
        page.evaluate("1")
    raise AssertionError("it does not happen")


def problem(code: str, title: str, detail: str) -> str:
    """The body of a problem document."""
    return json.dumps({"title": title, "detail": detail, "code": code})
